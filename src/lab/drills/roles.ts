import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { ManagerRecord } from '#core/ha/records.ts';
import type { PullRole } from '#lab/drills/drill-names.ts';
import { changeValue, type DrillStore, readValue, waitUntil } from '#lab/drills/drill-store.ts';
import { labContext } from '#lab/lab.ts';

export type Leaders = { manager: string; store: string };

/** Looks who leads now. */
export async function readLeaders(store: DrillStore): Promise<Leaders> {
  const manager = await readValue<ManagerRecord>(store, keys.manager);
  const members = await store.listMembers();
  return { manager: manager?.node ?? '', store: members.find((member) => member.leader)?.name ?? '' };
}

/** The role that `home` has, given who leads. */
export function roleOf(home: string, leaders: Leaders): PullRole {
  if (leaders.manager === home) return leaders.store === home ? 'both' : 'manager';
  return leaders.store === home ? 'store' : 'plain';
}

/** Moves the leads so that `home` gets `role`, and waits until a look confirms it. */
export async function arrangeRole(lab: string, store: DrillStore, home: string, role: PullRole): Promise<void> {
  const other = labContext(lab).nodes.find((node) => node.name !== home)?.name ?? home;
  const managerNode = role === 'manager' || role === 'both' ? home : other;
  const storeNode = role === 'store' || role === 'both' ? home : other;
  await waitUntil(
    `${home} to be ${role}`,
    60_000,
    async () => {
      const leaders = await readLeaders(store);
      if (roleOf(home, leaders) === role) return true;
      if (leaders.manager !== managerNode) await moveManager(store, managerNode);
      if (leaders.store !== storeNode) await moveStoreLeader(lab, storeNode);
      return false;
    },
    500,
  );
}

/** Names another node in the record of the lead; its agent finds itself named and takes over under the next epoch. */
async function moveManager(store: DrillStore, node: string): Promise<void> {
  await changeValue<ManagerRecord>(store, keys.manager, (now) => ({ node, epoch: (now?.epoch ?? 0) + 1, sinceAtMs: Date.now() }));
}

type EndpointStatus = { Endpoint: string; Status: { header: { member_id: number }; leader: number } };

async function moveStoreLeader(lab: string, node: string): Promise<void> {
  const { nodes } = labContext(lab);
  const text = await etcdctl(lab, labContext(lab).endpoints, ['endpoint', 'status', '-w', 'json']);
  // Member ids have 64 bits: JSON.parse would round them.
  const exact = JSON.parse(text.replaceAll(/:(\d{15,})/g, ':"$1"')) as EndpointStatus[];
  const address = nodes.find((entry) => entry.name === node)?.address ?? '';
  const wanted = exact.find((entry) => new URL(entry.Endpoint).hostname === address);
  const leader = exact.find((entry) => String(entry.Status.header.member_id) === String(entry.Status.leader));
  if (wanted === undefined || leader === undefined) return; // looked at again in the next round
  const id = BigInt(wanted.Status.header.member_id).toString(16);
  await etcdctl(lab, [leader.Endpoint], ['move-leader', id]);
}

async function etcdctl(lab: string, endpoints: string[], args: string[]): Promise<string> {
  const { tls } = labContext(lab);
  const options = [
    `--endpoints=${endpoints.join(',')}`,
    `--cacert=${tls.caFile}`,
    `--cert=${tls.certFile}`,
    `--key=${tls.keyFile}`,
    '--command-timeout=3s',
  ];
  try {
    const done = await promisify(execFile)('etcdctl', [...options, ...args], {
      timeout: 5_000,
      env: { ...process.env, ETCDCTL_API: '3' },
    });
    return done.stdout;
  } catch (cause) {
    throw new AppError('unavailable', `etcdctl ${args.join(' ')}`, { cause });
  }
}
