import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { withDefaults } from '#core/ha/ha-settings.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';
import { planEnd } from '#core/ha/manager/shutdown-policy.ts';
import { type EndingGuest, judgeEnd } from '#core/ha/node-end.ts';
import type { HaMemory, HaResource, HaSettings, Permit } from '#core/ha/records.ts';
import type { RequestOrder } from '#core/ha/requests.ts';
import type { Clock } from '#ports/clock.ts';
import type { GuestLoop } from '#programs/agent/guest-loop.ts';
import type { NodeMode } from '#programs/agent/node-mode.ts';
import type { World } from '#programs/agent/world.ts';

/**
 * Prepares this node for its end, and takes that back.
 *
 *   policy ─> mode of the agent, published ─> guest loop stops or hands over, manager freezes or moves ─> core/ha/node-end.ts: may it end?
 *
 * A request that an earlier agent had begun is begun again and comes to the same end: the mode stands in the record.
 */
export type NodeEnd = {
  /** Returns one line for each guest when the machine may end. Raises AppError timeout, or conflict when `stay` came in between. */
  end(order: EndOrder, tell: (text: string) => Promise<void>): Promise<string[]>;
  stay(): Promise<string[]>;
};

type EndOrder = Extract<RequestOrder, { kind: 'node-end' }>;

export type NodeEndOptions = {
  self: string;
  world: World;
  clock: Clock;
  nodeMode: NodeMode;
  guests: Pick<GuestLoop, 'running' | 'whyNotCopied'>;
  log: { info(fields: object, text: string): void };
};

export function createNodeEnd(options: NodeEndOptions): NodeEnd {
  const { self, world, clock, nodeMode, guests, log } = options;
  /** Grows with each `stay`: what was begun before it is over. */
  let stays = 0;

  function isDrained(): boolean {
    const drains = world.read<HaMemory>(keys.haMemory)?.value.drains ?? [];
    return drains.includes(self);
  }

  function listHomed(): number[] {
    return world
      .list<GuestRecord>(prefixes.guests)
      .filter(({ value }) => value.home === self)
      .map(({ value }) => value.vmid);
  }

  function look(vmid: number): EndingGuest {
    const record = world.read<GuestRecord>(keys.guest(vmid))?.value ?? null;
    const permit = world.read<Permit>(keys.nodePermit(self))?.value ?? null;
    return {
      vmid,
      record,
      runs: guests.running().some((guest) => guest.vmid === vmid),
      want: world.read<HaResource>(keys.haResource(vmid))?.value.want ?? null,
      orderHolds: permit?.state === 'granted' && record?.order?.nodeEpoch === permit.epoch,
      couldNotCopy: guests.whyNotCopied(vmid),
    };
  }

  async function waitUntilDone(
    mode: AgentMode,
    concerned: Set<number>,
    tell: (text: string) => Promise<void>,
  ): Promise<string[]> {
    const [begunBootMs, begunStays] = [clock.bootMs(), stays];
    let told = '';
    for (;;) {
      // A guest that arrives meanwhile has to leave as well.
      for (const vmid of listHomed()) concerned.add(vmid);
      const verdict = judgeEnd(self, mode, [...concerned].sort((a, b) => a - b).map(look));
      const waitedMs = clock.bootMs() - begunBootMs;
      const isPatient = waitedMs < limits.managerAnswerMs;
      const open = [...verdict.waitsFor, ...(isPatient ? verdict.asksManagerFor : [])];
      if (open.length === 0) return verdict.lines;
      if (stays !== begunStays) throw new AppError('conflict', `prepare ${self} for its end: it was taken back meanwhile`);
      const limitMs = mode === 'maintenance' ? limits.nodeDrainMs : limits.nodeEndMs;
      if (waitedMs > limitMs) {
        const words = `not done after ${Math.round(limitMs / 1000)} s: ${open.join('; ')}`;
        throw new AppError('timeout', `prepare ${self} for its end: ${words}. It goes on; ask again, or let the node stay`);
      }
      const text = open.join('; ');
      if (text !== told) await tell((told = text));
      await new Promise((resolve) => setTimeout(resolve, limits.nodeEndLookMs));
    }
  }

  return {
    async end(order, tell) {
      await nodeMode.untilLoaded();
      const settings = withDefaults(world.read<HaSettings>(keys.haSettings)?.value ?? null);
      const concerned = new Set(listHomed());
      const plan = planEnd(order.policy ?? settings.shutdownPolicy, order.request, isDrained() ? 'maintenance' : nodeMode.mode());
      log.info({ event: 'node.ending', mode: plan.mode, request: order.request }, plan.because);
      await nodeMode.set(plan.mode, plan.because);
      const lines = await waitUntilDone(plan.mode, concerned, tell);
      log.info({ event: 'node.may-end', mode: plan.mode }, lines.join('; '));
      return [`${self} may end (${plan.because})`, ...lines];
    },
    async stay() {
      await nodeMode.set('active', 'an operator lets the node stay');
      stays += 1;
      log.info({ event: 'node.stays' }, 'it takes guests again');
      return [`${self} takes guests again`];
    },
  };
}
