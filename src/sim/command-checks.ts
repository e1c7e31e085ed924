import type { GuestRecord } from '#core/guest/guest-record.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { Command } from '#core/ha/manager/facts.ts';
import { targetOf } from '#core/ha/manager/memory.ts';
import type { HaCommand, HaMemory, HaResource } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import { keys } from '#sim/known-keys.ts';
import type { SimChange, SimEntry, WriteTag } from '#sim/store.ts';

/** An answer is there for at least this long. */
const readableMs = 60_000;

type Fail = (invariant: string, text: string) => void;
type Written<T> = { before: T | undefined; next: T | undefined };

/**
 * S4 for commands: each is answered once, in the very commit that makes its effect visible; nothing that only a command may do happens
 * without one; what was accepted is carried out.
 */
export class CommandChecks {
  private readonly cluster: Cluster;
  private readonly fail: Fail;
  private readonly answeredAtMs = new Map<string, number>();

  constructor(cluster: Cluster, fail: Fail) {
    this.cluster = cluster;
    this.fail = fail;
  }

  /** A commit took effect. `memory` and `guest`: what of them it wrote. */
  note(
    changes: readonly SimChange[],
    before: readonly (SimEntry | null)[],
    tag: WriteTag,
    memory: Written<HaMemory> | null,
    guest: Written<GuestRecord> | null,
  ): void {
    const accepted: Command[] = [];
    for (const [index, { key, entry }] of changes.entries()) {
      if (!key.startsWith(prefixes.haCommands)) continue;
      const was = before[index]?.value as HaCommand | undefined;
      const is = entry?.value as HaCommand | undefined;
      if (tag.node === 'person' || was === undefined) continue;
      if (is === undefined && was.state !== 'waiting' && this.isYoung(was.id))
        this.fail('S4', `the answer to the command ${was.id} is removed before anybody could read it`);
      if (was.state !== 'waiting' && is !== undefined) this.fail('S4', `the command ${was.id} is answered twice`);
      if (was.state === 'waiting' && is === undefined) this.fail('S4', `the command ${was.id} goes unanswered`);
      if (was.state === 'waiting' && is !== undefined) {
        this.answeredAtMs.set(was.id, this.cluster.engine.nowMs);
        this.cluster.checks.counts.commands += 1;
      }
      if (was.state === 'waiting' && is?.state === 'accepted') accepted.push(was.command);
    }
    for (const command of accepted) {
      // Also where it was quarantined and released in one round, so that the memory shows neither.
      if (command.kind === 'release-quarantine') this.cluster.checks.manager.forgetClaims(command.node);
      const undone = accepted.slice(accepted.indexOf(command) + 1).some((later) => subjectOf(later) === subjectOf(command));
      if (!undone && !this.isVisible(command, memory?.next, guest?.next))
        this.fail('S4', `${JSON.stringify(command)} is accepted without its effect`);
    }
    if (tag.leadEpoch === undefined) return;
    if (memory?.next !== undefined) this.checkMemory(accepted, memory.before, memory.next);
    if (guest?.next !== undefined && guest.before !== undefined) this.checkGuest(accepted, guest.before, guest.next);
  }

  private isYoung(id: string): boolean {
    return this.cluster.engine.nowMs - (this.answeredAtMs.get(id) ?? 0) < readableMs;
  }

  /** A manager wrote what is wanted of a guest: a stop that somebody asked for, and nothing else. */
  noteWant(before: HaResource, next: HaResource, guest: GuestRecord | undefined): void {
    const isStop = next.want === 'stopped' && JSON.stringify({ ...next, want: before.want }) === JSON.stringify(before);
    if (!isStop || guest?.ha?.state.kind !== 'stop-requested')
      this.fail('S4', `a manager changes ${JSON.stringify(before)} to ${JSON.stringify(next)}`);
  }

  private isVisible(command: Command, memory: HaMemory | undefined, guest: GuestRecord | undefined): boolean {
    switch (command.kind) {
      case 'move':
        if (guest?.ha === undefined) return false;
        return isQueued(guest, command) || targetOf(guest.ha.state) === command.to || guest.ha.node === command.to;
      case 'stop':
        return guest?.ha !== undefined && (isQueued(guest, command) || guest.ha.state.kind === 'stop-requested');
      case 'drain':
        return memory?.drains.includes(command.node) === true;
      case 'undrain':
        return memory?.drains.includes(command.node) === false;
      case 'disarm':
        return memory !== undefined && memory.disarm !== null;
      case 'arm':
        return memory !== undefined && memory.disarm === null;
      case 'release-quarantine':
        return memory !== undefined && memory.flaps[command.node]?.quarantined !== true;
    }
  }

  /** What only a command may change. */
  private checkMemory(accepted: readonly Command[], before: HaMemory | undefined, next: HaMemory): void {
    const asked = (kind: Command['kind'], node: string | null) =>
      accepted.some((command) => command.kind === kind && (node === null || ('node' in command && command.node === node)));
    const old = before?.drains ?? [];
    for (const node of next.drains)
      if (!old.includes(node) && !asked('drain', node)) this.fail('S4', `${node} is drained, and nobody asked`);
    for (const node of old)
      if (!next.drains.includes(node) && !asked('undrain', node)) this.fail('S4', `${node} is undrained, and nobody asked`);
    const wasDisarmed = (before?.disarm ?? null) !== null;
    if (!wasDisarmed && next.disarm !== null && !asked('disarm', null)) this.fail('S4', 'it is disarmed, and nobody asked');
    if (wasDisarmed && next.disarm === null && !asked('arm', null)) this.fail('S4', 'it is armed, and nobody asked');
    for (const [node, flap] of Object.entries(before?.flaps ?? {})) {
      if (flap.quarantined && next.flaps[node]?.quarantined !== true && !asked('release-quarantine', node))
        this.fail('S4', `${node} leaves its quarantine, and nobody asked`);
    }
  }

  private checkGuest(accepted: readonly Command[], before: GuestRecord, next: GuestRecord): void {
    const was = before.ha;
    const is = next.ha;
    if (was === undefined || is === undefined) return;
    const queued = was.command;
    // A queued command ends in what it asks for; otherwise somebody was told that it would, in vain.
    if (queued !== null && is.command === null && !isDone(queued, next, this.want(next.vmid)))
      this.fail(
        'S4',
        `${JSON.stringify(queued)} was accepted and is forgotten: guest ${next.vmid} is ${is.state.kind} (${is.because})`,
      );
    const moves = targetOf(is.state);
    const begins = moves !== null && targetOf(was.state) !== moves && is.because === 'a move was asked for';
    const entitled =
      queued?.kind === 'move' ||
      accepted.some((command) => command.kind === 'move' && command.guest === String(next.vmid)) ||
      this.cluster.people.mayDrag(next.vmid);
    if (begins && !entitled) this.fail('S4', `guest ${next.vmid} moves to ${moves} once more than was asked for`);
  }

  private want(vmid: number): HaResource['want'] | undefined {
    return this.cluster.store.read<HaResource>(keys.haResource(vmid))?.value.want;
  }
}

function isDone(
  command: NonNullable<NonNullable<GuestRecord['ha']>['command']>,
  { ha }: GuestRecord,
  want: string | undefined,
): boolean {
  if (ha === undefined || want !== 'started') return true;
  switch (command.kind) {
    case 'move':
      return targetOf(ha.state) === command.to || ha.node === command.to;
    case 'stop':
      return ha.state.kind === 'stop-requested';
  }
}

function isQueued({ ha }: GuestRecord, command: Command): boolean {
  return ha !== undefined && JSON.stringify(ha.command) === JSON.stringify(command);
}

/** Commands with the same subject undo each other. */
function subjectOf(command: Command): string {
  switch (command.kind) {
    case 'move':
    case 'stop':
      return `guest ${command.guest}`;
    case 'drain':
    case 'undrain':
      return `drain ${command.node}`;
    case 'disarm':
    case 'arm':
      return 'disarm';
    case 'release-quarantine':
      return `quarantine ${command.node}`;
  }
}
