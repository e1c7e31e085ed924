import { AppError } from '#base/error.ts';
import { runCommand, runIpBatch } from '#lab/command.ts';
import { labPaths, netnsFile, nodePaths } from '#lab/lab-paths.ts';
import type { LabNode, LabSpec } from '#lab/lab-spec.ts';

/**
 * The lab's network: one switch (bridge `sw0` in its own network namespace) with a port per node, one for the client; the
 * management controllers' addresses lie on the switch itself, as on a network card of their own. Nothing touches the host's network.
 *
 *   n1: br0 - uplink ===== n1 |            | client ===== eth0 :client
 *   n2: br0 - uplink ===== n2 |- sw0 (bmc) |
 */
export type LinkState = 'up' | 'down' | 'cut-tx' | 'cut-rx';

/** Cuts seen from the node: `tx` = what it sends is lost, `rx` = what is sent to it is lost. At the switch's port the sides swap. */
const cutHooks = { 'cut-tx': 'ingress', 'cut-rx': 'egress' } as const;

/** A bridge without an address of its own takes one of its ports': it changes when a node boots, and the controllers fall silent. */
const switchMac = '02:00:0a:4d:00:fd';

/** Makes the namespaces of the switch and the client, and the switch with the client at it. */
export async function buildSwitch(spec: LabSpec): Promise<void> {
  const { switchNetns, clientNetns } = labPaths(spec.name);
  const controllers = spec.nodes.map((node) => node.controllerAddress).filter((address) => address !== null);
  await runIpBatch(`lab ${spec.name}: making its namespaces`, null, [`netns add ${switchNetns}`, `netns add ${clientNetns}`]);
  await quietNamespace(switchNetns);
  await quietNamespace(clientNetns);
  await runIpBatch(`lab ${spec.name}: building its switch`, switchNetns, [
    'link set lo up',
    `link add sw0 address ${switchMac} type bridge forward_delay 0 mcast_snooping 0`,
    ...controllers.map((address) => `address add ${address}/${spec.prefixLength} dev sw0`),
    'link set sw0 up',
    `link add client type veth peer name eth0 netns ${clientNetns}`,
    'link set client master sw0 up',
  ]);
  await runIpBatch(`lab ${spec.name}: connecting the client`, clientNetns, [
    'link set lo up',
    `address add ${spec.clientAddress}/${spec.prefixLength} dev eth0`,
    'link set eth0 up',
  ]);
}

/** Makes a node's network namespace afresh, with its cable plugged into the switch; the port stays down. */
export async function plugNodeIn(spec: LabSpec, node: LabNode): Promise<void> {
  const { netns } = nodePaths(spec.name, node.name);
  const { switchNetns } = labPaths(spec.name);
  await unplugNode(spec.name, node.name);
  await runCommand(`node ${node.name}: making its namespace`, ['ip', 'netns', 'add', netns]);
  await runIpBatch(`node ${node.name}: plugging its cable in`, switchNetns, [
    `link add ${node.name} type veth peer name uplink address ${uplinkMac(node)} netns ${netns}`,
    `link set ${node.name} master sw0`,
  ]);
}

/** Removes a node's cable and namespace; what is not there is fine. The cable first: a namespace dies some time after its name. */
export async function unplugNode(lab: string, node: string): Promise<void> {
  await ignoreMissing(
    runCommand(`node ${node}: removing its cable`, ['ip', '-n', labPaths(lab).switchNetns, 'link', 'del', node]),
  );
  await ignoreMissing(runCommand(`node ${node}: removing its namespace`, ['ip', 'netns', 'del', nodePaths(lab, node).netns]));
}

/** Fixed, so that other machines' neighbour tables stay right over a reboot, as with a real card. */
export function uplinkMac(node: LabNode): string {
  const last = Number(node.address.split('.').at(-1));
  return `02:00:0a:4d:00:${last.toString(16).padStart(2, '0')}`;
}

/**
 * Puts the switch's port of a node into a state. `previous`: what it was in, so that a lab without cuts needs no nftables. Raises
 * AppError missing for a cut where nftables is not installed.
 */
export async function applyLink(
  lab: string,
  node: string,
  change: { to: LinkState; previous: LinkState; switchOn: boolean },
): Promise<void> {
  const { switchNetns } = labPaths(lab);
  const what = `node ${node}: link ${change.to}`;
  if (isCut(change.to) || isCut(change.previous)) {
    await runInNetns(what, switchNetns, ['nft', '-f', '-'], formatCut(node, change.to));
  }
  const power = change.to === 'down' || !change.switchOn ? 'down' : 'up';
  await runCommand(what, ['ip', '-n', switchNetns, 'link', 'set', node, power]);
}

function isCut(state: LinkState): state is keyof typeof cutHooks {
  return state === 'cut-tx' || state === 'cut-rx';
}

/** One transaction of nftables: removes the node's cut whether or not there is one, and makes the new one. */
function formatCut(node: string, state: LinkState): string {
  const table = `netdev cut_${node.replaceAll('-', '_')}`;
  const lines = [`add table ${table}`, `delete table ${table}`];
  if (isCut(state)) {
    lines.push(
      `add table ${table}`,
      `add chain ${table} cut { type filter hook ${cutHooks[state]} device "${node}" priority 0; policy drop; }`,
    );
  }
  return `${lines.join('\n')}\n`;
}

/** Delays what the switch sends to a node (0: no more). Raises AppError unsupported when the kernel has no network emulator. */
export async function applyDelay(lab: string, node: string, delayMs: number): Promise<void> {
  const what = `node ${node}: delaying its link by ${delayMs} ms`;
  const tc = ['tc', '-n', labPaths(lab).switchNetns, 'qdisc'];
  if (delayMs === 0) {
    await ignoreMissing(runCommand(what, [...tc, 'del', 'dev', node, 'root']));
    return;
  }
  try {
    await runCommand(what, [...tc, 'replace', 'dev', node, 'root', 'netem', 'delay', `${delayMs}ms`]);
  } catch (cause) {
    const hint = "this host's kernel has no network emulator (netem); use down, cut-tx or cut-rx instead";
    throw new AppError('unsupported', `${what}: ${hint}`, { cause });
  }
}

/** Switches the whole switch off or on: one step for everybody. The ports of `on` nodes follow, so that carriers are lost too. */
export async function applySwitchPower(lab: string, power: 'off' | 'on', ports: string[]): Promise<void> {
  const to = power === 'on' ? 'up' : 'down';
  await runIpBatch(`lab ${lab}: switch ${power}`, labPaths(lab).switchNetns, [
    `link set sw0 ${to}`,
    ...[...ports, 'client'].map((port) => `link set ${port} ${to}`),
  ]);
}

/** Runs a command in a network namespace only: files, processes and mounts stay the caller's. */
export function runInNetns(what: string, netns: string, argv: string[], input = ''): Promise<{ stdout: string; stderr: string }> {
  return runCommand(what, ['nsenter', `--net=${netnsFile(netns)}`, ...argv], { input });
}

/** Deletes all namespaces of a lab by their names; what is not there is fine. */
export async function removeNamespaces(lab: string): Promise<void> {
  const { stdout } = await runCommand(`lab ${lab}: looking for its namespaces`, ['ip', 'netns', 'list']);
  for (const line of stdout.split('\n')) {
    const [netns] = line.split(' ');
    if (netns === undefined || !isNamespaceOf(netns, lab)) continue;
    await ignoreMissing(runCommand(`lab ${lab}: removing namespace ${netns}`, ['ip', 'netns', 'del', netns]));
  }
}

/** Lab names may begin alike (`a`, `a-n1`): a namespace is a lab's when the rest is one of the parts a lab has. */
function isNamespaceOf(netns: string, lab: string): boolean {
  const prefix = `hf-${lab}-`;
  return netns.startsWith(prefix) && /^(sw|client|n\d)$/.test(netns.slice(prefix.length));
}

/** No IPv6 chatter, and bridged frames are for no packet filter. */
async function quietNamespace(netns: string): Promise<void> {
  const script = [
    'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6',
    'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6',
    'echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables',
  ];
  await runInNetns(`namespace ${netns}: settings`, netns, ['sh', '-c', `{ ${script.join('; ')}; } 2>/dev/null; :`]);
}

async function ignoreMissing(command: Promise<unknown>): Promise<void> {
  try {
    await command;
  } catch (error) {
    if (!(error instanceof AppError) || error.kind !== 'unavailable') throw error;
  }
}
