import type { Command } from 'commander';
import { isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { sortSnapshot, type ClusterSnapshot } from '#core/ha/cluster-snapshot.ts';
import { deriveView, listSilent, unreadableView, type ClusterView } from '#core/ha/cluster-view.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { HaEvent } from '#core/ha/records.ts';
import { judge } from '#core/ha/verdict.ts';
import { readBackupTroubles } from '#cli/commands/backup-guest.ts';
import { readRestoreTests } from '#cli/commands/backup-jobs.ts';
import { judgeLiveRestores } from '#cli/live-restores.ts';
import { formatPools, judgePools, readPoolRecords } from '#cli/pool-status.ts';
import { listRecords } from '#cli/records.ts';
import { clusterActions, exitCodes, type Session } from '#cli/session.ts';
import { formatStatus } from '#cli/status-text.ts';
import type { StoreMember } from '#ports/store.ts';
import type { CliWorld } from '#cli/world.ts';

/** Adds `status` to the program. */
export function addStatusCommand(program: Command, world: CliWorld, run: (code: number) => void): void {
  program
    .command('status')
    .description('quorum, nodes, guests, copies with the age of their data, and one sentence of verdict')
    .addHelpText(
      'after',
      `\nExit code: ${exitCodes.ok} all is well, ${exitCodes.degraded} everything wanted runs but the next loss would hurt,\n` +
        `${exitCodes.down} a wanted guest does not run or nothing can be decided.`,
    )
    .action(clusterActions(world, run)(showStatus));
}

async function showStatus(session: Session): Promise<number> {
  const view = await readViewOrMembers(session);
  const pools = view.readable ? await readPoolRecords(session, view) : [];
  const restores = view.readable ? await judgeLiveRestores(session, view) : [];
  const verdict = judge(view, [...judgePools(pools), ...restores]);
  const { tests, text } = view.readable ? await readRestoreTests(session) : { tests: [], text: '' };
  const backupTroubles = view.readable ? await readBackupTroubles(session, view) : [];
  const told = [text, ...backupTroubles.map((line) => `${line}\n`)].join('');
  const backups = told === '' ? '' : `${told}\n`;
  session.printer.show(
    { ...view, pools, restoreTests: tests, backupTroubles, verdict },
    () => `${formatPools(pools, session.printer)}${backups}${formatStatus(view, verdict, session.printer)}`,
  );
  return { ok: exitCodes.ok, degraded: exitCodes.degraded, down: exitCodes.down }[verdict.level];
}

/** Without quorum nothing can be read, but who does not work can be told. */
async function readViewOrMembers(session: Session): Promise<ClusterView> {
  try {
    return await readView(session);
  } catch (error) {
    if (!isAppError(error, 'unavailable', 'timeout') || session.world.signal.aborted) throw error;
    return unreadableView(await listMembers(session));
  }
}

/** Watches the cluster for about a second and derives what there is to see. Raises AppError unavailable/timeout without quorum. */
export async function readView(session: Session): Promise<ClusterView> {
  const { world } = session;
  const members = listMembers(session);
  const [earlier] = await Promise.all([readSnapshot(session), members]);
  await world.sleep(limits.statusWatchMs);
  let now = await readSnapshot(session);
  if (listSilent(earlier, now).length > 0) {
    await world.sleep(limits.statusWatchAgainMs);
    now = await readSnapshot(session);
  }
  const deferrals = await readDeferrals(session, now);
  return deriveView(earlier, now, { members: await members, deferrals, nowMs: world.nowMs() });
}

function listMembers({ store, world }: Session): Promise<StoreMember[]> {
  return store.listMembers({ deadlineMs: limits.cliStoreCallMs, signal: world.signal });
}

async function readSnapshot({ store, world }: Session): Promise<ClusterSnapshot> {
  const options = { deadlineMs: limits.cliStoreCallMs, signal: world.signal };
  const { nodes, guests, haResources, haStatus, haRules, replication, replicas } = prefixes;
  const [singles, lists] = await Promise.all([
    Promise.all([keys.cluster, keys.manager, keys.haMemory, keys.haSettings].map((key) => store.read(key, options))),
    Promise.all(
      [nodes, guests, haResources, haStatus, haRules, replication, replicas].map((prefix) => store.list(prefix, options)),
    ),
  ]);
  return sortSnapshot([...singles.filter((entry) => entry !== null), ...lists.flatMap((list) => list.entries)]);
}

/** Why the manager could not place a guest, from its newest event about it; only read when a guest's home was fenced. */
async function readDeferrals(session: Session, now: ClusterSnapshot): Promise<Map<number, string>> {
  const fencedAtMs = new Map<number, number>();
  for (const guest of now.guests) {
    const permit = now.nodes.find((node) => node.name === guest.home)?.permit;
    if (permit?.state === 'revoked') fencedAtMs.set(guest.vmid, permit.revokedAtMs);
  }
  if (fencedAtMs.size === 0) return new Map();
  const events = await listRecords<HaEvent>(session, prefixes.haEvents);
  const about = events.filter(
    (event) => event.kind === 'deferred' && event.vmid !== null && event.atMs >= (fencedAtMs.get(event.vmid) ?? Infinity),
  );
  return new Map(about.map((event) => [event.vmid ?? 0, event.text]));
}
