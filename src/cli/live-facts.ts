import { limits } from '#base/limits.ts';
import { noEvidence, type ClaimTiming } from '#core/ha/claim.ts';
import { parseRecord } from '#core/ha/cluster-snapshot.ts';
import { readClusterFacts, type ClusterFacts, type Kept, type RecordView } from '#core/ha/cluster-round/facts.ts';
import { keys, root } from '#core/ha/keys.ts';
import type { ManagerRecord, Permit } from '#core/ha/records.ts';
import { timingProfiles } from '#core/ha/timing.ts';
import type { Session } from '#cli/session.ts';
import type { StoreEntry } from '#ports/store.ts';

/**
 * The facts of a manager's round, as this process can tell them: the record is read twice, a moment apart, and a node is there when its
 * heartbeat was written in between.
 */
export async function readLiveFacts(session: Session): Promise<ClusterFacts> {
  const { world } = session;
  const earlier = openView(await readAll(session));
  await world.sleep(limits.statusWatchMs);
  let now = openView(await readAll(session));
  if (listNodes(now).some((node) => isSilent(earlier, now, node))) {
    await world.sleep(limits.statusWatchAgainMs);
    now = openView(await readAll(session));
  }
  const manager = now.read<ManagerRecord>(keys.manager)?.value ?? null;
  const timing = chooseTiming(now);
  const seen = new Set(listNodes(now).filter((node) => !isSilent(earlier, now, node)));
  return readClusterFacts(now, {
    self: manager?.node ?? '',
    managerEpoch: manager?.epoch ?? 0,
    timing,
    readsApartMs: limits.bmcReadsApartMs,
    agentSilentMs: limits.agentSilentMs,
    balances: false,
    sightOf: (node) => ({
      silence: { kind: 'counted', silentMs: seen.has(node) ? 0 : timing.claimMs },
      lastSightBootMs: 0,
    }),
    evidenceOf: () => noEvidence,
  });
}

async function readAll({ store, world }: Session): Promise<StoreEntry[]> {
  return (await store.list(root, { deadlineMs: limits.cliStoreCallMs, signal: world.signal })).entries;
}

/** The entries as a record that is read by key and by prefix; each is parsed when it is asked for. */
function openView(entries: readonly StoreEntry[]): RecordView {
  const byKey = new Map(entries.map((entry) => [entry.key, entry]));
  const keep = <T>(entry: StoreEntry): Kept<T> => ({ value: parseRecord<T>(entry), modRevision: entry.modRevision });
  return {
    read: <T>(key: string) => {
      const entry = byKey.get(key);
      return entry === undefined ? null : keep<T>(entry);
    },
    list: <T>(prefix: string) =>
      entries.filter(({ key }) => key.startsWith(prefix)).map((entry) => ({ key: entry.key, ...keep<T>(entry) })),
  };
}

function listNodes(view: RecordView): string[] {
  const names = view.list(`${root}nodes/`).map(({ key }) => key.split('/')[3] ?? '');
  return [...new Set(names)].filter((node) => view.read<Permit>(keys.nodePermit(node))?.value.state === 'granted');
}

function isSilent(earlier: RecordView, now: RecordView, node: string): boolean {
  const key = keys.nodeHeartbeat(node);
  return now.read(key)?.modRevision === earlier.read(key)?.modRevision;
}

/** The profile by which the slowest node is claimed: only its claim time stands in the record. */
function chooseTiming(view: RecordView): ClaimTiming {
  const claimsMs = listNodes(view).map((node) => {
    const permit = view.read<Permit>(keys.nodePermit(node))?.value;
    return permit?.state === 'granted' ? permit.claimMs : 0;
  });
  const claimMs = Math.max(0, ...claimsMs) || timingProfiles.standard.claimMs;
  const known = Object.values(timingProfiles).find((profile) => profile.claimMs === claimMs);
  return known ?? { ...timingProfiles.standard, claimMs };
}
