import { AppError } from '#base/error.ts';
import type { DbLoadReport, DbLoadState } from '#lab/db-load.ts';
import { createDrillGuest, databaseConfig, databaseGuest, waitReplicated, waitRunning } from '#lab/drills/drill-guests.ts';
import { waitUntil } from '#lab/drills/drill-store.ts';
import { startLoadProcess } from '#lab/drills/measuring.ts';
import { mustOperate, type Stage } from '#lab/drills/manager/stage.ts';

const rowsPerSecond = 20;
const intervalMs = 5_000;

/** Makes the database on `node` and puts it under load; returns when it has copies on the other nodes. */
export async function startDatabase(stage: Stage, node: string): Promise<void> {
  const image = stage.images.ehrDb;
  if (image === null) throw new AppError('missing', 'the lab was built without the database image');
  const { vmid } = databaseGuest;
  const imports = { disk0: image.rootImage };
  await createDrillGuest(stage.store, { vmid, name: 'ehr-db', node, config: databaseConfig(image), imports, intervalMs });
  await waitRunning(stage.store, vmid, 1, 120_000);
  stage.load = await startLoadProcess(stage.lab, rowsPerSecond);
  await waitCommitting(stage, 0);
  const others = stage.nodes.filter((name) => name !== node);
  await waitReplicated(stage.store, vmid, 1, others, 300_000);
}

/** Waits until a row was committed after `sinceMs`; returns what the client has seen so far. */
export function waitCommitting(stage: Stage, sinceMs: number): Promise<DbLoadState> {
  return waitUntil('the database to commit rows', 180_000, async () => {
    const state = await readLoad(stage);
    return state.phase === 'loading' && (state.lastAckAtMs ?? 0) > sinceMs ? state : null;
  });
}

async function readLoad({ load }: Stage): Promise<DbLoadState> {
  if (load === null) throw new AppError('missing', 'there is no database in this lab yet');
  return (await load.ask<{ state: DbLoadState }>('state', 10_000)).state;
}

export type Outage = { downMs: number; rowsLost: number };

/** From the last row that was acknowledged before the first outage since `sinceMs` until rows were committed again for good. */
export async function readOutage(stage: Stage, sinceMs: number): Promise<Outage> {
  const { outages } = await waitCommitting(stage, Date.now());
  const own = outages.filter((outage) => outage.noticedAtMs >= sinceMs);
  const lost = own.map(({ lastAckId, maxIdFound }) => Math.max(0, (lastAckId ?? 0) - (maxIdFound ?? 0)));
  const fromMs = own[0]?.lastAckAtMs ?? own[0]?.noticedAtMs ?? 0;
  const untilMs = own.at(-1)?.committingAtMs ?? 0;
  return { downMs: Math.round(untilMs - fromMs), rowsLost: Math.max(0, ...lost) };
}

/** Ends the load, reads every row back, and stops the database: the scenes that follow do not need it. */
export async function endDatabase(stage: Stage): Promise<DbLoadReport> {
  const { load } = stage;
  if (load === null) throw new AppError('missing', 'there is no database in this lab');
  const { report } = await load.ask<{ report: DbLoadReport }>('stop', 120_000);
  load.kill();
  stage.load = null;
  await mustOperate(stage, ['guest', 'stop', String(databaseGuest.vmid)]);
  return report;
}
