import { spawn } from 'node:child_process';
import { existsSync, readlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { setTimeout as delay } from 'node:timers/promises';
import { isolatedEnd, joinIsolatedBridge } from '#adapters/network/isolated-wire.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { proberAddress } from '#core/guest-backup/restore-test.ts';
import type { RestoreProbe } from '#core/guest-backup/records.ts';
import type { ProbeOrder, ProbeVerdict } from '#programs/guest-backup/probe-main.ts';

/** Looks at the guest on the isolated bridge `number` from a process that sees nothing else. Raises AppError when it cannot be tried. */
export async function probeIsolated(number: number, probe: RestoreProbe, signal: AbortSignal): Promise<ProbeVerdict> {
  const { address, port, user, database, query, timeoutMs } = probe;
  if (address === null || port === null) throw new AppError('invalid', 'address: the probe needs an address and a port');
  const main = fileURLToPath(new URL('probe-main.ts', import.meta.url));
  const child = spawn('unshare', ['--net', process.execPath, main], { stdio: ['pipe', 'pipe', 'ignore'], signal });
  const ended = new Promise<string>((resolve, reject) => {
    let text = '';
    child.stdout.on('data', (part: Buffer) => (text += part.toString()));
    child.once('error', (cause) => reject(new AppError('unavailable', 'look at the restored guest', { cause })));
    child.once('close', () => resolve(text));
  });
  ended.catch(() => {}); // seen below
  child.stdin.on('error', () => {}); // its end tells
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs + limits.probeEndMs);
  try {
    await joinIsolatedBridge(number, await waitForNamespace(child.pid));
    const sql = probe.kind === 'sql' ? { user: user ?? '', database: database ?? '', query: query ?? '' } : null;
    const host = address.split('/')[0] ?? '';
    const order: ProbeOrder = { device: isolatedEnd(number), address: proberAddress(address), host, port, sql, timeoutMs };
    child.stdin.end(JSON.stringify(order));
    const said = await ended;
    if (said === '') throw new AppError('unavailable', 'look at the restored guest: whoever looked ended without a word');
    return JSON.parse(said) as ProbeVerdict;
  } finally {
    clearTimeout(timer);
    child.kill('SIGKILL');
  }
}

/** `unshare` becomes the prober under the same number; its own namespace is there a moment after its start. */
async function waitForNamespace(pid: number | undefined): Promise<number> {
  const own = readlinkSync('/proc/self/ns/net');
  const giveUpMs = performance.now() + limits.probeEndMs;
  while (pid !== undefined && existsSync(`/proc/${pid}`) && performance.now() < giveUpMs) {
    if (readlinkSync(`/proc/${pid}/ns/net`) !== own) return pid;
    await delay(10);
  }
  throw new AppError('unavailable', 'look at the restored guest: no network namespace could be made');
}
