import { probeGuest, waitHeard } from '#lab/drills/drill-guests.ts';
import {
  type createJudge,
  listClaims,
  listPowerLosses,
  mustNeverDouble,
  readWitness,
  waitSpeaking,
} from '#lab/drills/faults/scene.ts';
import { readOutage } from '#lab/drills/manager/database.ts';
import { type Figures, readGuest, type Stage } from '#lab/drills/manager/stage.ts';

type Judge = ReturnType<typeof createJudge>;

/** A look at witness and database over a part of a scene. */
export type Watch = { sinceMs: number; takeovers: number };

export async function startWatch(stage: Stage): Promise<Watch> {
  return { takeovers: (await readWitness(stage)).takeovers.length, sinceMs: Date.now() };
}

/**
 * Waits until witness and database are at work again, and judges the time since `watch`: no acknowledged row and no acknowledged write is
 * gone, and nothing ran twice. `name` goes before the figures.
 */
export async function mustLoseNothing(stage: Stage, watch: Watch, judge: Judge, name: string): Promise<Figures> {
  const { generation } = await readGuest(stage, probeGuest.vmid);
  await waitHeard(stage.collector, probeGuest.vmid, generation);
  // A start on the same node has the same generation: only what it says from now on is said by whoever runs now.
  await waitSpeaking(stage, Date.now());
  const witness = await readWitness(stage);
  const takeovers = witness.takeovers.slice(watch.takeovers);
  const writesLost = takeovers.reduce((sum, takeover) => sum + takeover.lostCounters, 0);
  const last = witness.runs.at(-1);
  judge.must(writesLost === 0, `the witness lost ${writesLost} writes (${name})`);
  judge.must(last?.consistent === true, `the witness's disks are no whole point: ${last?.detail} (${name})`);
  judge.must(last?.ioErrors === 0, `the witness saw ${last?.ioErrors} I/O errors (${name})`);
  await mustNeverDouble(stage, judge);
  const figures: Figures = {};
  if (takeovers.length > 0)
    figures[`${name} witness down ms`] = Math.round(Math.max(...takeovers.map((takeover) => takeover.silentMs)));
  if (stage.load !== null) {
    const outage = await readOutage(stage, watch.sinceMs);
    judge.must(outage.rowsLost === 0, `${outage.rowsLost} committed rows are gone (${name})`);
    if (outage.downMs > 0) figures[`${name} database down ms`] = outage.downMs;
    figures[`${name} rows lost`] = outage.rowsLost;
  }
  return { ...figures, [`${name} writes lost`]: writesLost };
}

/** Since `sinceMs` nobody but `except` was claimed, and no watchdog took a node's power. */
export async function mustHarmNobody(stage: Stage, sinceMs: number, judge: Judge, except: string[]): Promise<void> {
  const claims = (await listClaims(stage, sinceMs)).filter((event) => !except.includes(event.node));
  judge.must(claims.length === 0, `a node was claimed: ${claims[0]?.text}`);
  const losses = listPowerLosses(stage, sinceMs).filter((event) => event.event === 'power-off' && event.by !== 'plug');
  judge.must(losses.length === 0, `a node lost power: ${JSON.stringify(losses[0])}`);
}

/** Which nodes executed the guest since `sinceMs`, in order, as the host's kernel showed it. */
export function whereRan(stage: Stage, vmid: number, sinceMs: number): string {
  const spans = stage.sampler.spans().filter((span) => span.vmid === vmid && span.untilMs >= sinceMs);
  const nodes = spans.toSorted((a, b) => a.fromMs - b.fromMs).map((span) => span.node);
  return nodes.filter((node, index) => node !== nodes[index - 1]).join(' > ');
}
