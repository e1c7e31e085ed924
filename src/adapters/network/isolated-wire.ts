import { listLinks, runIp } from './ip-command.ts';

/**
 * A bridge that leads nowhere but to one process: a guest on it can be looked at and reaches nobody.
 *
 *     guest's port ─ hft<N> (bridge, no address) ─ hfv<N> ═ hfp<N> inside the network namespace of the process
 */
export const isolatedBridge = (number: number): string => `hft${number}`;
export const isolatedEnd = (number: number): string => `hfp${number}`;

/** Makes the bridge; one that is left from an earlier run is made anew. Raises AppError unavailable with what `ip` said. */
export async function makeIsolatedBridge(number: number): Promise<void> {
  await removeIsolatedBridge(number);
  await runIp(['link', 'add', 'name', isolatedBridge(number), 'type', 'bridge']);
  await runIp(['link', 'set', 'dev', isolatedBridge(number), 'addrgenmode', 'none', 'up']);
}

/** Joins the process, which has a network namespace of its own, to the bridge; its end of the wire has no address yet. */
export async function joinIsolatedBridge(number: number, pid: number): Promise<void> {
  const outer = `hfv${number}`;
  await runIp(['link', 'add', 'name', outer, 'type', 'veth', 'peer', 'name', isolatedEnd(number)]);
  await runIp(['link', 'set', 'dev', isolatedEnd(number), 'netns', String(pid)]);
  await runIp(['link', 'set', 'dev', outer, 'addrgenmode', 'none', 'master', isolatedBridge(number), 'up']);
}

/** Removes what is there of it. */
export async function removeIsolatedBridge(number: number): Promise<void> {
  const present = new Set((await listLinks()).map((link) => link.name));
  for (const name of [`hfv${number}`, isolatedBridge(number)]) if (present.has(name)) await runIp(['link', 'del', 'dev', name]);
}
