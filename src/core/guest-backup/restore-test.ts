import { AppError } from '#base/error.ts';
import type { RestoreProbe, RestoreTestRecord } from '#core/guest-backup/records.ts';

const firstTestVmid = 900_000_000;

/** The number that a guest bears while its backup is tried out. */
export function testVmid(vmid: number): number {
  return firstTestVmid + (vmid % 99_999_999);
}

/** An address in the same network as the guest's, for whoever looks at it. `address` with prefix length. Raises AppError invalid. */
export function proberAddress(address: string): string {
  const match = /^((?:\d{1,3}\.){3})(\d{1,3})\/(\d{1,2})$/.exec(address);
  const [host, prefix] = [Number(match?.[2]), Number(match?.[3])];
  if (match === null || host > 255 || prefix < 8 || prefix > 30)
    throw new AppError('invalid', `address: ${JSON.stringify(address)} is not of the form 192.168.1.10/24`);
  // The neighbour whose number differs in the second bit lies in any network of at least four addresses, and is not its first or last.
  const candidates = [host ^ 1, host ^ 3, host ^ 2];
  const isUsable = (number: number): boolean => {
    const mask = prefix >= 24 ? 255 >> (prefix - 24) : 255;
    return (number & mask) !== 0 && (number & mask) !== mask;
  };
  const chosen = candidates.find(isUsable);
  if (chosen === undefined) throw new AppError('invalid', `address: there is no room beside ${address} in its network`);
  return `${match[1]}${chosen}/${prefix}`;
}

/** Raises AppError invalid, naming the field, for a probe that cannot be made. */
export function checkProbe(probe: RestoreProbe): void {
  const needsNetwork = probe.kind === 'port' || probe.kind === 'sql';
  if (needsNetwork && (probe.address === null || probe.port === null))
    throw new AppError('invalid', `address: a ${probe.kind} probe needs the guest's address and a port`);
  if (probe.address !== null) proberAddress(probe.address);
  if (probe.kind === 'sql' && (probe.user === null || probe.database === null || probe.query === null))
    throw new AppError('invalid', 'query: an sql probe needs a user, a database and a query');
}

/** The test in words, with its age. */
export function describeTest(test: RestoreTestRecord, nowMs: number, formatDuration: (ms: number) => string): string {
  const age = `${formatDuration(Math.max(0, nowMs - test.endedAtMs))} ago`;
  const verdict = test.passed ? 'passed' : 'FAILED';
  return `guest ${test.vmid}: restore test ${verdict} ${age}, backup ${test.snapshot} on ${test.target} (${test.probe}: ${test.because})`;
}
