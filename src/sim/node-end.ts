import { AppError, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { NodeEnding } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { withDefaults } from '#core/ha/ha-settings.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { AgentMode } from '#core/ha/manager/facts.ts';
import { planEnd } from '#core/ha/manager/shutdown-policy.ts';
import { type EndingGuest, endingOf, judgeEnd } from '#core/ha/node-end.ts';
import type { AgentRecord, HaMemory, HaResource, HaSettings, Permit } from '#core/ha/records.ts';
import type { RequestOrder } from '#core/ha/requests.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import { writeOwned } from '#sim/owned-record.ts';
import type { Task } from '#sim/process.ts';

type EndOrder = Extract<RequestOrder, { kind: 'node-end' }>;

/** As programs/agent/node-mode.ts and node-end.ts: what the agent says of itself, and what it does because its node is about to end. */
export class NodeEnd {
  private readonly agent: AgentProcess;
  /** null: what an earlier agent of this boot said is not known yet; nothing is started before. */
  private mode: AgentMode | null = null;
  /** Grows with each `stay`: what was begun before it is over. */
  private stays = 0;
  private isUnsure = false;
  /** Who changes the mode does it one after the other. */
  private readonly turns = { given: 0, called: 0 };

  constructor(agent: AgentProcess) {
    this.agent = agent;
  }

  *load(): Task<void> {
    while (this.mode === null) {
      try {
        this.mode = yield* this.tryToLoad();
      } catch (error) {
        if (!isAppError(error)) throw error;
        yield* this.agent.sleep(limits.etcdCallMs);
      }
    }
    this.agent.ringAll();
  }

  isLoaded(): boolean {
    return this.mode !== null;
  }

  ending(): NodeEnding | null {
    return this.mode === null ? null : endingOf(this.mode);
  }

  /** Returns when the machine may end. Raises AppError timeout, or conflict when it was taken back. */
  *end(order: EndOrder): Task<void> {
    const { agent } = this;
    yield* this.untilLoaded();
    const settings = withDefaults(agent.read<HaSettings>(keys.haSettings)?.value ?? null);
    const drained = agent.read<HaMemory>(keys.haMemory)?.value.drains.includes(agent.host.name) === true;
    const concerned = new Set(this.listHomed());
    const mode = drained ? 'maintenance' : (this.mode ?? 'active');
    const plan = planEnd(order.policy ?? settings.shutdownPolicy, order.request, mode);
    agent.cluster.say(`${agent.host.name} agent: is to end (${order.request}): ${plan.because}`);
    yield* this.set(plan.mode, plan.because);
    yield* this.waitUntilDone(plan.mode, concerned);
  }

  *stay(): Task<void> {
    yield* this.set('active', 'an operator lets the node stay');
    this.stays += 1;
  }

  private *untilLoaded(): Task<void> {
    const { host } = this.agent;
    const untilBootMs = host.bootMs() + limits.storeStartMs;
    while (this.mode === null && host.bootMs() < untilBootMs) yield* this.agent.sleep(limits.nodeEndLookMs);
    if (this.mode === null) throw new AppError('busy', `${host.name} has just started`);
  }

  private *tryToLoad(): Task<AgentMode> {
    const known = (yield* this.agent.readNow<AgentRecord>(keys.nodeAgent(this.agent.host.name)))?.value;
    if (known?.bootId === this.agent.host.bootId) return known.mode;
    yield* this.write('active', 'its agent has started');
    return 'active';
  }

  private *write(mode: AgentMode, because: string): Task<void> {
    const { host } = this.agent;
    const record: AgentRecord = { mode, bootId: host.bootId, because, atMs: host.wallMs() };
    yield* writeOwned(this.agent, keys.nodeAgent(host.name), record);
  }

  private *set(next: AgentMode, because: string): Task<void> {
    yield* this.inTurn(this.setNow(next, because));
  }

  private *inTurn(work: Task<void>): Task<void> {
    const mine = this.turns.given++;
    while (this.turns.called !== mine) yield* this.agent.sleep(1);
    try {
      yield* work;
    } finally {
      this.turns.called += 1;
    }
  }

  private *setNow(next: AgentMode, because: string): Task<void> {
    const before = this.mode;
    if (before === null) throw new AppError('busy', `${this.agent.host.name} has just started`);
    // A node that is to end starts nothing more from this instant; one that stays has said so before it starts anything.
    if (endingOf(next) !== null) this.mode = next;
    try {
      yield* this.write(next, because);
      this.mode = next;
      this.isUnsure = false;
    } catch (error) {
      this.mode = before;
      this.isUnsure = true;
      throw error;
    } finally {
      this.agent.ringAll();
    }
  }

  *assure(): Task<void> {
    if (this.isUnsure) yield* this.inTurn(this.assureNow());
  }

  private *assureNow(): Task<void> {
    if (this.mode === null || !this.isUnsure) return;
    yield* this.write(this.mode, 'what was asked last was not taken');
    this.isUnsure = false;
  }

  private *waitUntilDone(mode: AgentMode, concerned: Set<number>): Task<void> {
    const { agent, stays } = this;
    const { name } = agent.host;
    const begunBootMs = agent.host.bootMs();
    for (;;) {
      for (const vmid of this.listHomed()) concerned.add(vmid);
      const verdict = judgeEnd(
        name,
        mode,
        [...concerned].map((vmid) => this.look(vmid)),
      );
      const waitedMs = agent.host.bootMs() - begunBootMs;
      const isPatient = waitedMs < limits.managerAnswerMs;
      if (verdict.waitsFor.length + (isPatient ? verdict.asksManagerFor.length : 0) === 0) return;
      if (stays !== this.stays) throw new AppError('conflict', `prepare ${name} for its end: it was taken back meanwhile`);
      const limitMs = mode === 'maintenance' ? limits.nodeDrainMs : limits.nodeEndMs;
      if (waitedMs > limitMs) throw new AppError('timeout', `prepare ${name} for its end: ${verdict.waitsFor.join('; ')}`);
      yield* agent.sleep(limits.nodeEndLookMs);
    }
  }

  private listHomed(): number[] {
    const { name } = this.agent.host;
    return this.agent.list<GuestRecord>(prefixes.guests).flatMap(({ value }) => (value.home === name ? [value.vmid] : []));
  }

  private look(vmid: number): EndingGuest {
    const { agent } = this;
    const record = agent.read<GuestRecord>(keys.guest(vmid))?.value ?? null;
    const permit = agent.read<Permit>(keys.nodePermit(agent.host.name))?.value ?? null;
    return {
      vmid,
      record,
      runs: agent.guests.running().some((guest) => guest.vmid === vmid),
      want: agent.read<HaResource>(keys.haResource(vmid))?.value.want ?? null,
      orderHolds: permit?.state === 'granted' && record?.order?.nodeEpoch === permit.epoch,
      couldNotCopy: agent.guests.whyNotCopied(vmid),
    };
  }
}
