import { planEnd, type EndRequest } from '#core/ha/manager/shutdown-policy.ts';
import { endHost, publish } from './agent-daemon.ts';
import type { Action, Faults, ScenarioSize, WantWord } from './scenario-file.ts';
import {
  addGuest,
  findNode,
  isPresent,
  powerOff,
  powerOn,
  startManager,
  type World,
  type WorldGuest,
  type WorldNode,
} from './world.ts';

/** What the script does to the world between rounds. An action that this replay does not know is noted in the world and passed over. */
export function performAction(world: World, action: Action): void {
  const node = typeof action['node'] === 'string' ? findNode(world, action['node']) : undefined;
  const guest = typeof action['workload'] === 'string' ? world.guests.get(action['workload']) : undefined;
  if (node !== undefined && guest === undefined && action['workload'] === undefined && performOnNode(world, action, node)) return;
  if (guest !== undefined && performOnGuest(world, action, guest)) return;
  switch (action.do) {
    case 'wait':
      return;
    case 'add':
      return add(world, action);
    case 'arm':
      world.commands.push({ kind: 'arm' });
      return;
    case 'skip-rounds':
      return skipRounds(world, action);
    case 'disarm':
      world.commands.push({ kind: 'disarm', mode: action['mode'] === 'hands-off' ? 'hands-off' : 'hold' });
      return;
    default:
      world.unknownActions.push(JSON.stringify(action));
  }
}

function performOnNode(world: World, action: Action, node: WorldNode): boolean {
  switch (action.do) {
    case 'power-on':
      powerOn(world, node);
      return true;
    case 'power-off':
      noteLoss(world, node);
      powerOff(world, node);
      return true;
    case 'link-down':
      noteLoss(world, node);
      node.linked = false;
      return true;
    case 'link-up':
      node.linked = node.powered;
      return true;
    case 'graceful-shutdown':
      return askToEnd(world, node, 'power-off');
    case 'graceful-reboot':
      return askToEnd(world, node, 'reboot');
    case 'restart-agent':
      return askToEnd(world, node, 'agent-restart');
    case 'stop-manager':
      if (node.manager !== null) node.manager.stopping = true;
      return true;
    case 'start-manager':
      if (node.powered && node.manager === null) startManager(node);
      return true;
    case 'store-access-broken':
    case 'store-access-ok':
      node.storeBroken = action.do === 'store-access-broken';
      return true;
    case 'drain-node':
      world.commands.push({ kind: 'drain', node: node.name });
      return true;
    case 'undrain-node':
      world.commands.push({ kind: 'undrain', node: node.name });
      return true;
    default:
      return false;
  }
}

function performOnGuest(world: World, action: Action, guest: WorldGuest): boolean {
  switch (action.do) {
    case 'set-want':
      guest.want = action['want'] as WantWord;
      return true;
    case 'set-size':
      guest.size = changeSize(guest.size, action);
      return true;
    case 'set-load':
      guest.load = changeSize(guest.load, action);
      return true;
    case 'lock':
      guest.lock = typeof action['lock'] === 'string' ? action['lock'] : 'backup';
      return true;
    case 'unlock':
      guest.lock = null;
      return true;
    case 'remove':
      world.guests.delete(guest.id);
      return true;
    case 'move-live':
    case 'move-cold':
      world.commands.push({ kind: 'move', guest: guest.id, live: action.do === 'move-live', to: String(action['to']) });
      return true;
    case 'stop': {
      const seconds = action['timeoutSeconds'] ?? action['timeout'] ?? action['seconds'];
      world.commands.push({ kind: 'stop', guest: guest.id, timeoutMs: typeof seconds === 'number' ? seconds * 1000 : null });
      return true;
    }
    default:
      return false;
  }
}

function changeSize(size: ScenarioSize, action: Action): ScenarioSize {
  return {
    cores: typeof action['cores'] === 'number' ? action['cores'] : size.cores,
    memoryBytes: typeof action['memoryBytes'] === 'number' ? action['memoryBytes'] : size.memoryBytes,
  };
}

function add(world: World, action: Action): void {
  const id = String(action['workload']);
  const kinds: Record<string, 'vm' | 'container'> = { vm: 'vm', ct: 'container' };
  const guest = addGuest(world, {
    id,
    kind: kinds[id.split(':')[0] ?? ''] ?? 'stub',
    home: String(action['node']),
    want: (action['want'] ?? 'running') as WantWord,
    faults: action['faults'] as Faults | undefined,
  });
  if (action['alreadyRunning'] === true) guest.runsOn.add(guest.home);
}

/** A daemon that is kept from running for a while: on the node that is named, or on all. */
function skipRounds(world: World, action: Action): void {
  const daemon = action['daemon'] === 'manager' ? 'manager' : 'agent';
  for (const node of world.nodes) {
    if (action['node'] === undefined || action['node'] === node.name) node.skips[daemon] += Number(action['rounds'] ?? 1);
  }
}

/** The host's own shutdown, or only its agent's, told to the agent that knows what to do with the guests. */
function askToEnd(world: World, node: WorldNode, request: EndRequest): boolean {
  if (!node.powered) return true;
  if (request !== 'agent-restart') node.shutdown = request;
  if (node.agent === null && request !== 'agent-restart') endHost(world, node);
  if (node.agent !== null && node.agent.end === null) {
    const end = planEnd(world.scenario.given.settings.onNodeShutdown, request, node.agent.mode);
    node.agent = { ...node.agent, end, mode: end.mode };
    publish(world, node);
  }
  return true;
}

/** A hard loss: who ran there and is wanted running counts the seconds until it starts again. */
function noteLoss(world: World, node: WorldNode): void {
  if (!isPresent(node)) return;
  const affected = [...world.guests.values()].filter((guest) => guest.want === 'running' && guest.runsOn.has(node.name));
  world.losses.push({ t: world.nowSeconds, node: node.name, affected: affected.map((guest) => guest.id) });
}
