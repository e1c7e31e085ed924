/**
 * The room: one process per lab that owns the power of its nodes, serves the control socket and ends everything with its owner,
 * its time limit or on request. Runs in the switch's network namespace and in the lab's control group `room`.
 *
 * Arguments: --name LAB.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { assert, unreachable } from '#base/assert.ts';
import { AppError, formatErrorChain } from '#base/error.ts';
import { enterGroup, makeGroup } from '#lab/control-group.ts';
import { serveJson } from '#lab/json-socket.ts';
import { appendLabEvent, type EventSink } from '#lab/lab-event.ts';
import { labPaths, parseLabName } from '#lab/lab-paths.ts';
import { requireLabSpec, writeLabSpec } from '#lab/lab-spec.ts';
import { removeLab } from '#lab/leftovers.ts';
import { applySwitchPower } from '#lab/network.ts';
import { setCpuPriority } from '#lab/node/cpu-priority.ts';
import { roomNice } from '#lab/room/boot.ts';
import { watchOwner } from '#lab/room/owner.ts';
import { createRoomNode, type RoomNode } from '#lab/room/room-node.ts';
import type { RoomAnswer, RoomRequest } from '#lab/room/room-requests.ts';

const { values: options } = parseArgs({ options: { name: { type: 'string' } } });
assert(options.name !== undefined, 'room: --name is missing');
const name = parseLabName(options.name);
const spec = requireLabSpec(name);
const roomGroup = join(spec.cgroup, 'room');
makeGroup(roomGroup);
const cameFrom = enterGroup(roomGroup);
setCpuPriority(process.pid, roomNice);

const emit: EventSink = (event) => appendLabEvent(name, event);
let switchPower: 'off' | 'on' = 'on';
const nodes = new Map<string, RoomNode>();
for (const node of spec.nodes) nodes.set(node.name, await createRoomNode(spec, node, emit, () => switchPower === 'on'));

function findNode(node: string): RoomNode {
  const found = nodes.get(node);
  if (found === undefined)
    throw new AppError('missing', `lab ${name} has no node ${node}; it has ${[...nodes.keys()].join(', ')}`);
  return found;
}

async function switchTo(to: 'off' | 'on'): Promise<null> {
  switchPower = to;
  emit({ atMs: Date.now(), event: 'switch', power: to });
  await applySwitchPower(
    name,
    to,
    [...nodes.values()].filter((node) => node.wantsLink()).map((node) => node.name),
  );
  return null;
}

/** From here on the services that need the cluster's record run, in this boot and in every later one. */
async function openFor(): Promise<null> {
  spec.founded = true;
  writeLabSpec(spec);
  const waiting = spec.services.filter((service) => service.needsCluster).map((service) => service.name);
  await Promise.all([...nodes.values()].map((node) => node.askInit({ op: 'start', services: waiting })));
  return null;
}

async function answer(request: RoomRequest): Promise<RoomAnswer[RoomRequest['op']]> {
  switch (request.op) {
    case 'status':
      return { name, pid: process.pid, switchPower, nodes: await Promise.all([...nodes.values()].map((node) => node.status())) };
    case 'plug': {
      const node = findNode(request.node);
      if (request.to === 'off') return node.plugOff({ keepBmc: request.keepBmc });
      await node.powerOn('plug');
      return null;
    }
    case 'link':
      await findNode(request.node).setLink(request.to);
      return null;
    case 'switch':
      return switchTo(request.to);
    case 'service':
      return findNode(request.node).askInit({ op: request.to, services: [request.service] });
    case 'signal':
      return { pids: findNode(request.node).signal(request.service, request.signal) };
    case 'founded':
      return openFor();
    case 'down':
      setImmediate(() => void end('asked'));
      return null;
    default:
      return unreachable(request, 'room request');
  }
}

let ending = false;
async function end(because: string): Promise<void> {
  if (ending) return;
  ending = true;
  emit({ atMs: Date.now(), event: 'room-down', because });
  await Promise.all([...nodes.values()].map((node) => node.end()));
  enterGroup(cameFrom); // the room's own group can go only when nobody is in it
  await removeLab(spec);
  process.exit(0);
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void end(signal));
if (spec.ttlMs !== null) setTimeout(() => void end(`its time of ${spec.ttlMs} ms is over`), spec.ttlMs);
if (spec.owner !== null) watchOwner(spec.owner, () => void end(`its owner, process ${spec.owner?.pid}, is gone`));

await serveJson(labPaths(name).controlSocket, answer);
emit({ atMs: Date.now(), event: 'room-up', because: 'asked' });
for (const node of nodes.values()) {
  node.powerOn('start').catch((error: unknown) => {
    emit({ atMs: Date.now(), event: 'boot-failed', node: node.name, text: formatErrorChain(error) });
  });
}
