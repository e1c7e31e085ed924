import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestAction, GuestPlanFacts } from '#core/guest/guest-plan.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import { isFailureTold, toldBegin, toldEnd, toldFailed } from '#core/guest/order-end.ts';
import { noteDeath, noteFailed, orderKey, type OrderTries, planRetry, triesUnder } from '#core/guest/order-tries.ts';
import { resourceWithDefaults } from '#core/ha/ha-settings.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { HaResource, HaStatus } from '#core/ha/records.ts';
import type { Manifest } from '#core/storage/manifest.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { performAction } from '#sim/guest-actions.ts';
import type { Qemu } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import { tryOnce } from '#sim/owned-record.ts';
import type { Task } from '#sim/process.ts';
import { StatusDesk } from '#sim/status-desk.ts';

/** What the loop remembers of one guest from round to round; as programs/agent/guest-memory.ts. */
export type GuestMemory = {
  readonly vmid: number;
  process: Qemu | null;
  /** What the agent knows of `process`. */
  state: ProcessState;
  isEnding: boolean;
  tries: OrderTries;
  failure: { key: string; count: number; retryAtBootMs: number } | null;
  preCopiedUnder: string | null;
  notCopied: string | null;
};

const passes: ReadonlySet<GuestAction['kind']> = new Set(['halt', 'hand-over', 'give-up', 'demote', 'promote']);

/** As programs/agent/guest-loop.ts: one action a guest at a time, the same reads, commits and effects in the same order. */
export class GuestLoop {
  readonly desk: StatusDesk;
  /** Guests of which a step is under way by which they leave this node, or come to it. */
  private readonly passing = new Set<number>();
  private readonly agent: AgentProcess;
  private readonly memories = new Map<number, GuestMemory>();
  private readonly busy = new Set<number>();
  private isAdopted = false;

  constructor(agent: AgentProcess) {
    this.agent = agent;
    this.desk = new StatusDesk(agent);
  }

  running(): Qemu[] {
    return [...this.memories.values()].flatMap(({ process }) => process ?? []);
  }

  *run(): Task<void> {
    const { agent } = this;
    yield* agent.sleep(agent.cluster.dice.between(50, 400));
    for (const qemu of agent.host.qemus.values()) {
      agent.cluster.say(`${agent.host.name} agent: finds guest ${qemu.vmid}, generation ${qemu.generation}`);
      this.attach(qemu);
      agent.run(this.lookAtFound(qemu));
    }
    this.isAdopted = true;
    for (;;) {
      if (agent.ready) {
        const known = agent.list<GuestRecord>(prefixes.guests).map((entry) => entry.value.vmid);
        for (const vmid of new Set([...known, ...this.running().map((qemu) => qemu.vmid)])) this.launch(vmid);
      }
      yield* agent.bells.guests.next(agent, limits.agentRoundMs);
    }
  }

  /** As found-process.ts: nothing is done with a guest that was found before it has said what it does. */
  private *lookAtFound(qemu: Qemu): Task<void> {
    const { agent } = this;
    yield* agent.sleep(20);
    while (qemu.alive && !agent.host.isResponsive(qemu)) yield* agent.sleep(2 * limits.guardLookMs);
    const memory = this.memoryOf(qemu.vmid);
    if (!qemu.alive || memory.process !== qemu) return;
    memory.state = qemu.run;
    if (qemu.run === 'running') agent.replication.startGuest(qemu);
    agent.bells.guests.ring();
  }

  /** Runs `work` while no action on the guest is under way and none starts. Raises AppError busy when one is. */
  *exclusively<T>(vmid: number, work: Task<T>): Task<T> {
    // Until the guests that run here are known, none may be taken for stopped.
    while (!this.isAdopted) yield* this.agent.sleep(50);
    const untilBootMs = this.agent.host.bootMs() + limits.guestBusyMs;
    while (this.busy.has(vmid) && this.agent.host.bootMs() < untilBootMs) yield* this.agent.sleep(50);
    if (this.busy.has(vmid)) throw new AppError('busy', `guest ${vmid}: another action on it has not ended`);
    this.busy.add(vmid);
    try {
      return yield* work;
    } finally {
      this.busy.delete(vmid);
      this.agent.bells.guests.ring();
    }
  }

  attach(qemu: Qemu): void {
    const { agent } = this;
    const memory = this.memoryOf(qemu.vmid);
    Object.assign(memory, { process: qemu, state: 'unknown', isEnding: false, preCopiedUnder: null });
    const gone = (reason: string) =>
      agent.deliver(() => {
        if (memory.process !== qemu) return;
        memory.process = null;
        const died = memory.state === 'running' && !memory.isEnding;
        memory.tries = died ? noteDeath(memory.tries, reason, agent.host.bootMs()) : { ...memory.tries, startedAtBootMs: null };
        agent.replication.stopGuest(qemu.vmid);
        agent.bells.guests.ring();
      });
    if (qemu.alive) qemu.onExit.push(gone);
    else gone('it was gone');
  }

  private memoryOf(vmid: number): GuestMemory {
    const known = this.memories.get(vmid);
    if (known !== undefined) return known;
    const tries = triesUnder(null, '');
    const made: GuestMemory = {
      vmid,
      process: null,
      state: 'unknown',
      isEnding: false,
      tries,
      failure: null,
      preCopiedUnder: null,
      notCopied: null,
    };
    this.memories.set(vmid, made);
    return made;
  }

  private launch(vmid: number): void {
    if (this.busy.has(vmid)) return;
    this.busy.add(vmid);
    const memory = this.memoryOf(vmid);
    const outcome = { mayBeMore: false };
    this.agent.start(this.stepTo(memory, outcome), (error) => {
      this.busy.delete(vmid);
      this.passing.delete(vmid);
      if (error !== null && !isAppError(error)) throw error;
      if (memory.process === null && this.agent.read(keys.guest(vmid)) === null) this.memories.delete(vmid);
      else if (outcome.mayBeMore) this.agent.bells.guests.ring();
    });
  }

  private *stepTo(memory: GuestMemory, outcome: { mayBeMore: boolean }): Task<void> {
    outcome.mayBeMore = yield* this.step(memory);
  }

  /** Why the guest's last state could not be given to any other node, now that this one ends. */
  whyNotCopied(vmid: number): string | null {
    return this.memories.get(vmid)?.notCopied ?? null;
  }

  isHandingOver(): boolean {
    return this.passing.size > 0;
  }

  /** True: something was done. */
  private *step(memory: GuestMemory): Task<boolean> {
    const { agent } = this;
    const { rules } = agent.cluster;
    const record = agent.read<GuestRecord>(keys.guest(memory.vmid))?.value ?? null;
    const facts = this.facts(memory, record);
    const action = rules.planGuestAction(facts);
    const isOurs = record !== null && record.home === agent.host.name;
    if (!isOurs) this.desk.forget(memory.vmid);
    const key = `${action.kind} ${record === null ? '' : orderKey(record)}`;
    if (memory.failure?.key === key && agent.host.bootMs() < memory.failure.retryAtBootMs) return false;
    try {
      const status = rules.planStatus(facts, action, memory.tries, agent.host.bootMs());
      if (record !== null && status !== null) yield* this.desk.tell(record, status);
      if (passes.has(action.kind)) this.passing.add(memory.vmid);
      const attempt = yield* performAction(agent, memory, record, action);
      if (attempt.kind === 'failed') this.noteAttempt(memory, action, attempt.error);
      memory.failure = null;
      return attempt.kind === 'done';
    } catch (error) {
      if (!isAppError(error)) throw error;
      this.noteTrouble(memory, action, key, error);
      if (!isOurs || action.kind === 'none' || !isFailureTold(action, memory.process !== null)) return false;
      const because = `${action.kind} failed: ${formatErrorChain(error)}`;
      yield* tryOnce(this.desk.tell(record, { state: 'failed', because, end: null }));
      return false;
    }
  }

  private noteAttempt(memory: GuestMemory, action: GuestAction, error: unknown): void {
    const { agent } = this;
    memory.tries = noteFailed(memory.tries, `${action.kind}: ${formatErrorChain(error)}`, agent.host.bootMs());
    agent.cluster.say(`${agent.host.name} agent: ${action.kind} of guest ${memory.vmid} failed: ${formatErrorChain(error)}`);
  }

  private noteTrouble(memory: GuestMemory, action: GuestAction, key: string, error: unknown): void {
    const { agent } = this;
    const count = memory.failure?.key === key ? memory.failure.count + 1 : 1;
    const waitMs = Math.min(limits.guestRetryMs * 2 ** (count - 1), limits.guestRetryMaxMs);
    memory.failure = { key, count, retryAtBootMs: agent.host.bootMs() + waitMs };
    const what = action.kind === 'none' ? 'telling' : action.kind;
    agent.cluster.say(`${agent.host.name} agent: ${what} of guest ${memory.vmid} is put off: ${formatErrorChain(error)}`);
  }

  private facts(memory: GuestMemory, record: GuestRecord | null): GuestPlanFacts {
    const { agent } = this;
    const { host } = agent;
    const { process, state, vmid } = memory;
    const manifest = host.disk.manifest(vmid);
    const resource = agent.read<HaResource>(keys.haResource(vmid))?.value ?? null;
    const ending = agent.nodeEnd.ending();
    const key = record === null ? '' : orderKey(record);
    memory.tries = triesUnder(memory.tries, ending === null ? key : `${key}/${ending}`);
    const isStart = record?.order?.kind === 'run' && ending === null;
    const retries = isStart ? resourceWithDefaults(vmid, resource).localRetries : limits.handOverRetries;
    const retry = planRetry(memory.tries, retries, host.bootMs());
    memory.notCopied = ending === 'give-up' && retry.kind === 'gave-up' ? retry.because : null;
    return {
      self: host.name,
      epoch: agent.readEpoch(),
      record,
      want: resource?.want ?? null,
      process: process === null ? null : { generation: process.generation, nodeEpoch: process.nodeEpoch, state },
      copy: manifest === null ? null : describeCopy(manifest),
      began: toldBegin(record, agent.read<HaStatus>(keys.haStatus(vmid))?.value ?? null),
      ended: toldEnd(host.name, record, this.desk.told(vmid)),
      hasFailed: toldFailed(host.name, record, this.desk.told(vmid)),
      preCopied: memory.preCopiedUnder === key,
      retry,
      ending,
    };
  }
}

function describeCopy({ role, generation, handedOver, promotedFrom }: Manifest): GuestPlanFacts['copy'] {
  const { generation: from = 0, seq = 0, pointAtMs = 0 } = promotedFrom ?? {};
  const isPromoted = role === 'primary' && promotedFrom !== null;
  return {
    role,
    generation,
    handedOver: handedOver ?? null,
    promotedFrom: isPromoted ? { point: { generation: from, seq }, pointAtMs } : null,
  };
}
