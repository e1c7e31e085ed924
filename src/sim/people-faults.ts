import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { ShutdownPolicy } from '#core/ha/manager/shutdown-policy.ts';
import type { HaResource, HaRule } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import { Dice } from '#sim/engine.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import { chooseSettings, type Fault } from '#sim/swarm.ts';

const policies: ShutdownPolicy[] = ['conditional', 'freeze', 'failover', 'migrate'];

/** What people do, wisely or not. All chance comes from the fault, so that leaving one out changes no other. */
export function beginPersonFault(cluster: Cluster, host: Host, other: Host, fault: Fault): void {
  const dice = new Dice(Math.floor(fault.chance * 2 ** 31));
  const { people } = cluster;
  const vmids = cluster.vmids.filter((vmid) => cluster.store.read(keys.guest(vmid)) !== null);
  if (vmids.length === 0 || !cluster.store.canCommit()) return;
  const vmid = dice.pick(vmids);
  // A double click: the same twice at the same instant.
  const times = dice.yes(0.2) ? 2 : 1;
  switch (fault.kind) {
    case 'want-changed':
      return changeWant(cluster, vmid, dice);
    case 'config-edited':
      return people.editConfig(vmid, dice.whole(1, 7));
    case 'guest-deleted':
      return deleteGuest(cluster, vmid);
    case 'guest-created':
      return cluster.askForGuest(host, dice);
    case 'command-move':
      return people.command({ kind: 'move', guest: String(vmid), live: dice.yes(0.5), to: other.name }, times);
    case 'command-stop':
      return people.command({ kind: 'stop', guest: String(vmid), timeoutMs: dice.pick([null, 0, 3_000]) }, times);
    case 'command-drain':
      return people.command({ kind: dice.yes(0.7) ? 'drain' : 'undrain', node: host.name }, times);
    case 'command-disarm':
      return people.command({ kind: 'disarm', mode: dice.pick(['hold', 'hands-off']) }, times);
    case 'command-arm':
      return people.command({ kind: 'arm' }, times);
    case 'command-release':
      return people.command({ kind: 'release-quarantine', node: host.name }, times);
    case 'rule-edited':
      return editRule(cluster, vmids, dice);
    case 'settings-edited':
      return people.setSettings(chooseSettings(dice));
    case 'resource-edited':
      return people.change(vmid, chooseResource(dice, vmids, vmid));
    case 'node-ended':
      return endNode(cluster, host, dice);
    case 'tail-released':
      return releaseTail(cluster, host, vmid);
    default:
      return;
  }
}

function changeWant(cluster: Cluster, vmid: number, dice: Dice): void {
  const want = cluster.store.read<HaResource>(keys.haResource(vmid))?.value.want;
  const next = want === 'started' ? dice.pick(['stopped', 'stopped', 'disabled', 'ignored'] as const) : 'started';
  cluster.people.change(vmid, { want: next });
}

/** Stops it, and asks its home to delete it a while later, whatever has become of it. */
function deleteGuest(cluster: Cluster, vmid: number): void {
  cluster.people.change(vmid, { want: 'stopped' });
  cluster.engine.after(15_000, () => {
    const home = cluster.store.read<GuestRecord>(keys.guest(vmid))?.value.home;
    if (home !== undefined && cluster.store.canCommit()) cluster.people.request(home, { kind: 'guest-delete', vmid });
  });
}

/** Among them rules that cannot be: too many kept apart, a guest or a node that does not exist, both together and apart. */
function editRule(cluster: Cluster, vmids: number[], dice: Dice): void {
  const id = `r${dice.whole(1, 4)}`;
  if (dice.yes(0.3)) return cluster.people.removeRule(id);
  const ids = vmids.map(String);
  const few = [...new Set([dice.pick(ids), dice.pick(ids), ...(dice.yes(0.2) ? [dice.pick([...ids, '999'])] : [])])];
  const names = cluster.hosts.map((host) => host.name);
  const base = { id, enabled: dice.yes(0.9), guests: dice.yes(0.1) ? ids : few };
  const kind = dice.pick(['keep-apart', 'keep-apart', 'keep-together', 'prefer-nodes'] as const);
  if (kind !== 'prefer-nodes') return cluster.people.setRule({ ...base, kind });
  const nodes = names.filter(() => dice.yes(0.5)).map((node) => ({ node, rank: dice.whole(0, 2) }));
  const rule: HaRule = { ...base, kind, hard: dice.yes(0.5), nodes: nodes.length === 0 ? [{ node: 'n9', rank: 0 }] : nodes };
  cluster.people.setRule(rule);
}

export function chooseResource(dice: Dice, vmids: readonly number[], vmid: number): Partial<HaResource> {
  return {
    localRetries: dice.whole(0, 2),
    otherNodeTries: dice.whole(0, 2),
    failback: dice.yes(0.7),
    betterCopyWaitMs: dice.pick([0, 0, 20_000]),
    maxDataAgeMs: dice.pick([null, null, 600_000]),
    startOrder: dice.whole(0, 3),
    // Circles may come of it.
    startsAfter: vmids.filter((other) => other !== vmid && dice.yes(0.2)),
  };
}

/** The machine goes down once it may, or a while later stays after all. */
function endNode(cluster: Cluster, host: Host, dice: Dice): void {
  const request = dice.pick(['reboot', 'power-off'] as const);
  const policy = dice.pick([null, ...policies]);
  const goesDown = dice.yes(0.6);
  cluster.people.request(host.name, { kind: 'node-end', request, policy }, () => {
    if (goesDown) cluster.endNode(host, request);
  });
  if (goesDown) return;
  const { era } = cluster;
  cluster.engine.after(dice.between(1_000, 60_000), () => {
    if (cluster.era === era) cluster.people.request(host.name, { kind: 'node-stay' });
  });
}

function releaseTail(cluster: Cluster, host: Host, vmid: number): void {
  const tail = host.disk.manifest(vmid)?.leftBehind[0];
  if (tail !== undefined) cluster.people.request(host.name, { kind: 'tail-release', vmid, name: tail.name });
}
