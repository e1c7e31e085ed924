import { setTimeout as delay } from 'node:timers/promises';
import { isolatedBridge, makeIsolatedBridge, removeIsolatedBridge } from '#adapters/network/isolated-wire.ts';
import { setGuestTime } from '#adapters/qmp/guest-agent.ts';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { RestoreProbe, RestoreTestRecord } from '#core/guest-backup/records.ts';
import { checkProbe, testVmid } from '#core/guest-backup/restore-test.ts';
import { keys } from '#core/ha/keys.ts';
import type { HaResource, HaStatus } from '#core/ha/records.ts';
import type { RequestOrder, RestoreOrder } from '#core/ha/requests.ts';
import { defaultReplicationJob, type ReplicationJob } from '#core/replica/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { Store } from '#ports/store.ts';
import type { TellProgress } from '#programs/agent/tell-progress.ts';
import { readRecord, writeOwnedRecord } from '#programs/agent/world.ts';
import { probeIsolated } from '#programs/guest-backup/isolated-probe.ts';
import type { ProbeVerdict } from '#programs/guest-backup/probe-main.ts';

type TestOrder = Extract<RequestOrder, { kind: 'restore-test' }>;

export type RestoreTestParts = {
  self: string;
  run: string;
  store: Store;
  clock: Clock;
  tell: TellProgress;
  signal: AbortSignal;
  /** Makes the guest; returns which backup it is. */
  restore: (order: RestoreOrder) => Promise<{ snapshot: string; atSeconds: number }>;
  /** Removes the guest, which does not run, with its disks. */
  remove: (vmid: number) => Promise<void>;
};

/**
 * Tries the newest backup of a guest out, as a guest of its own number on a bridge that leads nowhere. It is an ordinary guest of the cluster
 * meanwhile, so whatever happens to this agent it is known, and a repeated test takes it away first.
 *
 *   clear ─► bridge ─► restore ─► start ─► probe ─► record the verdict ─► clear
 */
export async function testRestore(parts: RestoreTestParts, order: TestOrder): Promise<string[]> {
  const { clock, store, self, tell } = parts;
  checkProbe(order.probe);
  const vmid = testVmid(order.vmid);
  const startedAtMs = clock.wallMs();
  const seen: Partial<RestoreTestRecord> = {};
  let verdict: { passed: boolean; because: string };
  await clear(parts, vmid);
  try {
    verdict = await tryOut(parts, order, vmid, seen);
  } catch (error) {
    if (parts.signal.aborted) throw error;
    verdict = { passed: false, because: formatErrorChain(error) };
  } finally {
    await tell('taking the restored guest away');
    await clear(parts, vmid);
  }
  const { snapshot = 'none', snapshotAtMs = 0, restoreMs, bootMs } = seen;
  const record: RestoreTestRecord = {
    vmid: order.vmid,
    target: order.target,
    node: self,
    snapshot,
    snapshotAtMs,
    probe: order.probe.kind,
    ...verdict,
    startedAtMs,
    endedAtMs: clock.wallMs(),
    ...(restoreMs === undefined ? {} : { restoreMs }),
    ...(bootMs === undefined ? {} : { bootMs }),
  };
  await writeOwnedRecord(store, keys.restoreTest(order.vmid), record);
  const text = `restore test of guest ${order.vmid}: backup ${snapshot} on ${order.target}: ${verdict.because}`;
  if (!verdict.passed) throw new AppError('conflict', `${text}; the backup is NOT to be relied on until that is understood`);
  return [`${text}; restored in ${restoreMs ?? 0} ms, answered ${bootMs ?? 0} ms after its start: passed`];
}

async function tryOut(
  parts: RestoreTestParts,
  { vmid: of, target, probe }: TestOrder,
  vmid: number,
  seen: Partial<RestoreTestRecord>,
): Promise<{ passed: boolean; because: string }> {
  const { store, clock, tell, signal } = parts;
  await makeIsolatedBridge(vmid);
  const still: ReplicationJob = { vmid, ...defaultReplicationJob, enabled: false };
  await writeOwnedRecord(store, keys.replicationJob(vmid), still);
  const restoringMs = performance.now();
  const { snapshot, atSeconds } = await parts.restore({
    kind: 'guest-restore',
    vmid,
    target,
    from: { vmid: of, atSeconds: null },
    name: `test-of-${of}`,
    bridge: isolatedBridge(vmid),
    keepMacs: true,
    want: 'stopped',
  });
  Object.assign(seen, { snapshot, snapshotAtMs: atSeconds * 1_000, restoreMs: Math.round(performance.now() - restoringMs) });
  await tell('starting the restored guest');
  const resource: HaResource = { vmid, want: 'started', maxDataAgeMs: null, localRetries: 0, otherNodeTries: 0, failback: false };
  await writeOwnedRecord(store, keys.haResource(vmid), resource);
  const status = await waitFor(parts, 'the restored guest to run', async () => {
    const now = (await readRecord<HaStatus>(store, keys.haStatus(vmid)))?.value;
    if (now?.state === 'failed') throw new AppError('conflict', `the restored guest does not start: ${now.because}`);
    return now?.state === 'running' ? now : null;
  });
  await tell(`looking at the restored guest (${probe.kind})`);
  const verdict = await look(parts, vmid, probe, signal);
  seen.bootMs = Math.max(0, clock.wallMs() - (status.qemuStartedAtMs ?? clock.wallMs()));
  return verdict;
}

async function look(
  parts: RestoreTestParts,
  vmid: number,
  probe: RestoreProbe,
  signal: AbortSignal,
): Promise<Pick<ProbeVerdict, 'passed' | 'because'>> {
  if (probe.kind === 'port' || probe.kind === 'sql') return await probeIsolated(vmid, probe, signal);
  const giveUpMs = performance.now() + probe.timeoutMs;
  if (probe.kind === 'agent') {
    let because = 'nothing was tried';
    while (performance.now() < giveUpMs) {
      const outcome = await setGuestTime(guestRunPaths(parts.run, vmid).guestAgent, parts.clock.wallMs());
      if (outcome.kind === 'set') return { passed: true, because: 'the agent in it answers' };
      because = outcome.because;
      await delay(limits.cliPollMs, undefined, { signal });
    }
    return { passed: false, because: `its agent does not answer: ${because}` };
  }
  const steadyMs = Math.min(probe.timeoutMs, limits.guestSteadyMs);
  await delay(steadyMs, undefined, { signal });
  const now = (await readRecord<HaStatus>(parts.store, keys.haStatus(vmid)))?.value;
  if (now?.state === 'running') return { passed: true, because: `it runs on for ${steadyMs / 1_000} s` };
  return { passed: false, because: `it did not run on: ${now?.because ?? 'nothing is known of it'}` };
}

/** Takes everything of a test away, whatever of it is there. */
async function clear(parts: RestoreTestParts, vmid: number): Promise<void> {
  const { store, self } = parts;
  const record = await readRecord<GuestRecord>(store, keys.guest(vmid));
  if (record !== null) {
    const resource = await readRecord<HaResource>(store, keys.haResource(vmid));
    if (resource !== null) await writeOwnedRecord(store, keys.haResource(vmid), { ...resource.value, want: 'stopped' });
    await waitFor(parts, 'the restored guest to stop', async () => {
      const now = await readRecord<GuestRecord>(store, keys.guest(vmid));
      if (now !== null && now.value.home !== self)
        throw new AppError('conflict', `guest ${vmid} of an earlier test is at home on ${now.value.home}: delete it there`);
      try {
        await parts.remove(vmid);
        return true;
      } catch (error) {
        if (error instanceof AppError && (error.kind === 'conflict' || error.kind === 'busy')) return null; // it still runs
        throw error;
      }
    });
  }
  await removeIsolatedBridge(vmid);
}

async function waitFor<T>({ clock }: RestoreTestParts, what: string, see: () => Promise<T | null>): Promise<T> {
  const giveUpBootMs = clock.bootMs() + limits.restoreTestStepMs;
  while (clock.bootMs() < giveUpBootMs) {
    const seen = await see();
    if (seen !== null) return seen;
    await delay(limits.cliPollMs);
  }
  throw new AppError('timeout', `waiting for ${what}: not within ${limits.restoreTestStepMs / 1_000} s`);
}
