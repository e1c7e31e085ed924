import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import { listGroup } from '#lab/control-group.ts';
import { askJson } from '#lab/json-socket.ts';
import type { EventSink } from '#lab/lab-event.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { labPaths, nodePaths } from '#lab/lab-paths.ts';
import type { LabNode, LabSpec } from '#lab/lab-spec.ts';
import { applyDelay, applyLink, type LinkState } from '#lab/network.ts';
import type { InitRequest, ServiceState } from '#lab/node/init-messages.ts';
import { nodeGroups } from '#lab/room/boot.ts';
import { createController, type Controller } from '#lab/room/controller.ts';
import { createNodePower, type PowerCut } from '#lab/room/node-power.ts';
import type { NodeStatus } from '#lab/room/room-requests.ts';

/** One place in the room: a node with its power, its cable and, if the lab has them, its management controller. */
export type RoomNode = {
  readonly name: string;
  powerOn(by: 'start' | 'plug'): Promise<void>;
  plugOff(options: { keepBmc: boolean }): Promise<PowerCut | null>;
  setLink(to: LinkState | { delayMs: number }): Promise<void>;
  /** True when the port of the switch is to be up as far as the node's own cable is concerned. */
  wantsLink(): boolean;
  askInit(request: InitRequest): Promise<ServiceState[]>;
  signal(service: string, signal: NodeJS.Signals): number[];
  status(): Promise<NodeStatus>;
  /** Everything off, for good. */
  end(): Promise<void>;
};

export async function createRoomNode(
  spec: LabSpec,
  node: LabNode,
  emit: EventSink,
  isSwitchOn: () => boolean,
): Promise<RoomNode> {
  let link: LinkState = 'up';
  let applied: LinkState = 'up';
  let delayMs = 0;
  const bringLink = async () => {
    await applyLink(spec.name, node.name, { to: link, previous: applied, switchOn: isSwitchOn() });
    applied = link;
  };
  let controller: Controller | null = null;
  const power = createNodePower({
    spec,
    node,
    emit,
    plugged: async () => {
      applied = link === 'up' || link === 'down' ? 'up' : link; // a new port has no cut of its own, but the old one's table may be left
      await bringLink();
      if (delayMs > 0) await applyDelay(spec.name, node.name, delayMs);
    },
    shown: (shown) => controller?.showPower(shown),
  });
  const onOrder = (order: 'on' | 'off') => {
    emit({ atMs: Date.now(), event: 'controller-order', node: node.name, power: order });
    void (order === 'on' ? power.on('bmc') : power.cut('bmc'));
  };
  if (node.controllerAddress !== null) {
    const password = readFileSync(join(labPaths(spec.name).pki, `bmc-${node.name}`), 'utf8').trim();
    const { name, controllerAddress: address } = node;
    const { controller: folder } = nodePaths(spec.name, name);
    controller = await createController({ name, address, folder, user: spec.controllerUser, password }, onOrder);
  }
  const startController = async () => {
    if (controller === null || controller.isOn()) return;
    await controller.start();
    emit({ atMs: Date.now(), event: 'controller-on', node: node.name });
  };
  const stopController = () => {
    if (controller === null || !controller.isOn()) return;
    controller.stop();
    emit({ atMs: Date.now(), event: 'controller-off', node: node.name });
  };
  const askInit = (request: InitRequest) =>
    askJson<InitRequest, ServiceState[]>(
      `node ${node.name}: asking its init`,
      nodePaths(spec.name, node.name).initSocket,
      request,
      labLimits.serviceStopMs + labLimits.emptyMs,
    );
  return {
    name: node.name,
    async powerOn(by) {
      await startController();
      await power.on(by);
    },
    async plugOff({ keepBmc }) {
      const cut = power.cut('plug'); // kills before it first waits: the controller's end must not delay it
      if (!keepBmc) stopController();
      return cut;
    },
    async setLink(to) {
      if (typeof to !== 'string') {
        if (power.state() !== 'off') await applyDelay(spec.name, node.name, to.delayMs);
        delayMs = to.delayMs;
        emit({ atMs: Date.now(), event: 'link', node: node.name, state: `delay ${delayMs} ms` });
        return;
      }
      link = to;
      emit({ atMs: Date.now(), event: 'link', node: node.name, state: to });
      if (power.state() !== 'off') await bringLink();
    },
    wantsLink: () => link !== 'down' && power.state() !== 'off',
    askInit,
    signal(service, signal) {
      const pids = listGroup(join(nodeGroups(spec, node.name).sys, service));
      if (pids.length === 0) throw new AppError('missing', `node ${node.name}: no process of service ${service} runs there`);
      for (const pid of pids) process.kill(pid, signal);
      emit({ atMs: Date.now(), event: 'signal', node: node.name, service, signal });
      return pids;
    },
    async status() {
      return {
        name: node.name,
        address: node.address,
        power: power.state(),
        bootId: power.bootId(),
        link,
        delayMs,
        controller: controller === null ? null : controller.isOn() ? 'on' : 'off',
        services: power.state() === 'up' ? await askInit({ op: 'list' }).catch(() => []) : [],
      };
    },
    async end() {
      await power.cut('down');
      controller?.close();
    },
  };
}
