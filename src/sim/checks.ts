import type { GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { comparePoints } from '#core/guest/guest-record.ts';
import { prefixes, root } from '#core/ha/keys.ts';
import type { HaMemory, HaResource, HaStatus, Heartbeat, ManagerRecord, Permit } from '#core/ha/records.ts';
import { newestPoint } from '#core/storage/manifest.ts';
import type { Cluster } from '#sim/cluster.ts';
import { CommandChecks } from '#sim/command-checks.ts';
import { noCounts } from '#sim/counts.ts';
import { DiskChecks } from '#sim/disk-checks.ts';
import type { Image, Session } from '#sim/disk.ts';
import { shortestClaimMs } from '#sim/guard.ts';
import type { Host, Qemu } from '#sim/host.ts';
import { keys, nodeOfHeartbeat } from '#sim/known-keys.ts';
import { ManagerChecks } from '#sim/manager-checks.ts';
import { MoveChecks } from '#sim/move-checks.ts';
import { RecordChecks } from '#sim/record-checks.ts';
import type { SimChange, SimEntry, WriteTag } from '#sim/store.ts';

export type Violation = { invariant: string; text: string; atMs: number };

const haPrefix = `${root}ha/`;

/** Clocks are read in steps, and a network is between: what the checkers forgive. */
const graceMs = 25;

/** The invariants of the fault model that hold at every instant, by name. The first that does not hold ends the run. */
export class Checks {
  violation: Violation | null = null;
  readonly counts = { ...noCounts };
  readonly reasons = new Map<number, string>();
  private readonly cluster: Cluster;
  private readonly only: ReadonlySet<string> | null;
  readonly manager: ManagerChecks;
  private readonly disks: DiskChecks;
  private readonly commands: CommandChecks;
  private readonly moves: MoveChecks;
  private readonly records: RecordChecks;
  private readonly heartbeatAtMs = new Map<string, number>();
  private readonly renewalSentAtMs = new Map<string, number>();
  /** Config that the last acknowledged edit of a person left. */
  private readonly configs = new Map<number, string>();
  private readonly wants = new Map<number, { want: HaResource['want']; sinceMs: number }>();

  /** `only`: invariants that count; null: all. */
  constructor(cluster: Cluster, only: ReadonlySet<string> | null) {
    this.cluster = cluster;
    this.only = only;
    const fail = (invariant: string, text: string) => this.fail(invariant, text);
    this.disks = new DiskChecks(cluster, fail);
    this.manager = new ManagerChecks(cluster, fail);
    this.commands = new CommandChecks(cluster, fail);
    this.moves = new MoveChecks(cluster, fail);
    this.records = new RecordChecks(cluster, fail);
  }

  fail(invariant: string, text: string): void {
    if (this.only !== null && !this.only.has(invariant)) return;
    this.violation ??= { invariant, text, atMs: this.cluster.engine.nowMs };
  }

  /** After every event that changed who executes or who may. */
  checkAll(): void {
    const executing = new Map<number, string>();
    for (const host of this.cluster.hosts) {
      for (const qemu of host.qemus.values()) {
        if (!host.isExecuting(qemu)) continue;
        const other = executing.get(qemu.vmid);
        if (other !== undefined)
          this.fail('S1', `guest ${qemu.vmid} executes on ${other} and on ${host.name} at the same instant`);
        executing.set(qemu.vmid, host.name);
        this.checkGrant(host, qemu);
        if (host.watchdog === null && !this.isDisarmed(host.name))
          this.fail('S14', `guest ${qemu.vmid} executes on ${host.name} and no watchdog is open there`);
      }
    }
  }

  private checkGrant(host: Host, qemu: Qemu): void {
    const permit = this.cluster.store.read<Permit>(keys.nodePermit(host.name))?.value;
    if (permit?.state !== 'granted' || permit.epoch !== qemu.nodeEpoch) {
      const says = permit === undefined ? 'nothing' : `${permit.state} ${permit.epoch}`;
      this.fail('S2', `guest ${qemu.vmid} executes on ${host.name} under epoch ${qemu.nodeEpoch}, the store says ${says}`);
    }
    const record = this.cluster.store.read<GuestRecord>(keys.guest(qemu.vmid))?.value;
    if (record === undefined) return this.fail('S2', `guest ${qemu.vmid} executes on ${host.name} and is deleted`);
    if (record.home !== host.name || record.generation !== qemu.generation) {
      const is = `${record.home} at generation ${record.generation}`;
      this.fail('S2', `guest ${qemu.vmid} executes on ${host.name} as generation ${qemu.generation}, its home is ${is}`);
    }
  }

  /** The newest heartbeat of the node says that it guards nothing: nobody claims it by silence. */
  private isDisarmed(node: string): boolean {
    return this.cluster.store.read<Heartbeat>(keys.nodeHeartbeat(node))?.value.phase === 'disarmed';
  }

  /** A commit that took effect. True: it changed who may execute, so `checkAll` has to look. */
  noteApply(changes: SimChange[], before: (SimEntry | null)[], tag: WriteTag): boolean {
    if (tag.leadEpoch !== undefined) this.checkLead(tag.leadEpoch, tag);
    let matters = false;
    let isManaged = false;
    for (const [index, { key, entry }] of changes.entries()) {
      const node = nodeOfHeartbeat(key);
      if (node !== null) {
        this.noteHeartbeat(node, tag);
        continue;
      }
      const old = before[index] ?? null;
      const isPermit = key.endsWith('/permit');
      const isGuest = !isPermit && key.startsWith(prefixes.guests);
      if (isPermit) this.notePermit(key, old?.value as Permit | undefined, entry?.value as Permit | undefined);
      else if (isGuest) this.noteGuest(old, entry, tag);
      else if (key.startsWith(prefixes.haResources))
        this.noteWant(old?.value as HaResource | undefined, entry?.value as HaResource | undefined, tag);
      else if (key.endsWith('/agent')) this.manager.noteAgent(old?.value, entry?.value);
      isManaged ||= isGuest || key.startsWith(haPrefix);
      matters ||= isPermit || isGuest;
    }
    if (isManaged || tag.events !== undefined) this.noteManaged(changes, before, tag);
    return matters;
  }

  /** Commands, memory, rules, settings, and what managers write. */
  private noteManaged(changes: SimChange[], before: (SimEntry | null)[], tag: WriteTag): void {
    let memory: { before: HaMemory | undefined; next: HaMemory | undefined } | null = null;
    let guest: { before: GuestRecord | undefined; next: GuestRecord | undefined } | null = null;
    for (const [index, { key, entry }] of changes.entries()) {
      const old = before[index]?.value;
      if (key === keys.haMemory) memory = { before: old as HaMemory, next: entry?.value as HaMemory };
      else if (key.startsWith(prefixes.guests)) guest = { before: old as GuestRecord, next: entry?.value as GuestRecord };
      else if (!key.startsWith(prefixes.haStatus) || isFailure(entry?.value as HaStatus | undefined)) this.manager.noteInput();
      if (key === keys.haSettings) this.manager.forgetClaims(null);
      if (key.startsWith(prefixes.haRules)) this.manager.noteRules();
    }
    this.commands.note(changes, before, tag, memory, guest);
    if (memory?.next !== undefined) {
      this.countMemory(memory.before, memory.next);
      this.manager.noteMemory(memory.before, memory.next);
    }
    if (guest?.before !== undefined && guest.next !== undefined) {
      this.moves.noteGuest(guest.before, guest.next);
      if (tag.leadEpoch !== undefined) {
        const wallMs = this.cluster.host(tag.node).wallMs();
        this.manager.noteGuest(guest.before, guest.next, { rules: tag.rules ?? [], wallMs });
      }
    }
    if (tag.events !== undefined) this.records.noteEvents(changes, before, tag.events);
  }

  private countMemory(before: HaMemory | undefined, next: HaMemory): void {
    const { counts } = this;
    if (next.disarm?.stage === 'in-force' && before?.disarm?.stage !== 'in-force') counts.disarms += 1;
    for (const [node, { quarantined }] of Object.entries(next.flaps)) {
      if (quarantined && before?.flaps[node]?.quarantined !== true) counts.quarantines += 1;
      if (!quarantined && before?.flaps[node]?.quarantined === true) this.manager.forgetClaims(node);
    }
  }

  private checkLead(leadEpoch: number, tag: WriteTag): void {
    const manager = this.cluster.store.read<ManagerRecord>(keys.manager)?.value;
    if (manager?.epoch === leadEpoch && manager.node === tag.node) return;
    this.fail(
      'S5',
      `a write of ${tag.node}'s lead ${leadEpoch} took effect while ${manager?.node} leads under ${manager?.epoch}`,
    );
  }

  private noteHeartbeat(node: string, tag: WriteTag): void {
    this.heartbeatAtMs.set(node, this.cluster.engine.nowMs);
    this.renewalSentAtMs.set(node, tag.sentAtMs ?? 0);
  }

  private notePermit(key: string, old: Permit | undefined, next: Permit | undefined): void {
    const node = nodeOf(key);
    const host = this.cluster.host(node);
    if (old !== undefined && next !== undefined && next.epoch <= old.epoch)
      this.fail('S2', `${node} gets epoch ${next.epoch} after ${old.epoch}`);
    if (next === undefined) return this.fail('S3', `the permit of ${node} is deleted`);
    if (old?.state === 'granted' && next.state === 'granted' && old.bootId === host.bootId) {
      this.fail('S3', `${node} takes a new epoch while its boot ${old.bootId} still holds the old one`);
    }
    if (next.state !== 'revoked') return;
    if (next.proof.kind !== 'released') this.manager.noteClaim(node, next.revokedAtMs);
    this.checkProof(host, next);
  }

  private checkProof(host: Host, permit: Extract<Permit, { state: 'revoked' }>): void {
    const { proof } = permit;
    const { nowMs } = this.cluster.engine;
    const seenAtMs = this.heartbeatAtMs.get(host.name) ?? 0;
    if (proof.kind === 'silence') {
      this.counts.claims += 1;
      const silentMs = nowMs - seenAtMs;
      if (this.isDisarmed(host.name))
        this.fail('S3', `${host.name} is claimed by silence and its newest heartbeat says disarmed`);
      const neededMs = shortestClaimMs(this.cluster.timing);
      if (silentMs < neededMs - graceMs) {
        this.fail(
          'S3',
          `${host.name} is claimed ${Math.round(silentMs)} ms after its last renewal, ${Math.round(neededMs)} ms are needed`,
        );
      }
    } else if (proof.kind === 'power-off') {
      this.counts.claims += 1;
      if (host.powered && host.bootedAtMs < seenAtMs) this.fail('S3', `${host.name} is claimed as powered off and has power`);
    } else if (proof.kind === 'released') {
      this.counts.releases += 1;
      if (host.groups.size > 0) this.fail('S3', `${host.name} gave its permit back with ${host.groups.size} groups left`);
    }
  }

  private noteGuest(old: SimEntry | null, entry: SimEntry | null, tag: WriteTag): void {
    const before = old?.value as GuestRecord | undefined;
    const next = entry?.value as GuestRecord | undefined;
    this.disks.noteHome(before, next);
    if (next === undefined) return;
    const { vmid } = next;
    const config = JSON.stringify(next.config);
    if (tag.node === 'person' || before === undefined) this.configs.set(vmid, config);
    else if (this.configs.get(vmid) !== config) this.fail('S4', `${tag.node} undoes an acknowledged edit of guest ${vmid}`);
    if (before === undefined) return;
    if (next.givenUp !== undefined && before.givenUp === undefined) {
      this.counts.givenUp += 1;
      // Where a person's move makes room, others may go by what the rules say.
      if (next.ha?.because === 'a move was asked for') this.manager.noteInput();
    }
    if (next.givenUp === undefined && before.givenUp !== undefined && next.home !== before.home) this.counts.moves += 1;
    if (next.ha?.state.kind === 'failed' && before.ha?.state.kind !== 'failed') this.counts.failed += 1;
    if (next.declined !== undefined && next.order === null && before.order !== null) {
      this.counts.declines += 1;
      // Who is to be with it, or apart from it, was sent where it does not come.
      this.manager.noteInput();
    }
    if (next.generation < before.generation) this.fail('S5', `guest ${vmid} goes back to generation ${next.generation}`);
    if (next.home !== before.home || next.generation !== before.generation) this.checkTakeover(before, next);
    const isOrder = next.order !== null && JSON.stringify(next.order) !== JSON.stringify(before.order);
    if (isOrder && next.order?.kind === 'run' && tag.leadEpoch !== undefined) this.checkWant(vmid, 'is ordered to run', 0);
  }

  private checkTakeover(before: GuestRecord, next: GuestRecord): void {
    this.counts.recoveries += 1;
    const permit = this.cluster.store.read<Permit>(keys.nodePermit(before.home))?.value;
    const holds = permit?.state === 'granted' && permit.epoch === before.order?.nodeEpoch;
    if (holds) {
      this.fail('S3', `guest ${next.vmid} goes from ${before.home} to ${next.home} while the order on ${before.home} is good`);
    }
    const promote = next.order?.promote ?? null;
    const refused = before.declined?.findLast((copy) => copy.node === next.home);
    if (promote !== null && refused !== undefined && comparePoints(promote, refused.point) <= 0) {
      this.fail('S6', `guest ${next.vmid} is placed on the copy that ${next.home} has declined`);
    }
  }

  private noteWant(before: HaResource | undefined, resource: HaResource | undefined, tag: WriteTag): void {
    if (resource === undefined) return;
    const { vmid } = resource;
    if (before !== undefined && tag.leadEpoch !== undefined)
      this.commands.noteWant(before, resource, this.cluster.store.read<GuestRecord>(keys.guest(vmid))?.value);
    if (this.wants.get(vmid)?.want === resource.want) return;
    this.wants.set(vmid, { want: resource.want, sinceMs: this.cluster.engine.nowMs });
  }

  private checkWant(vmid: number, what: string, forgivenMs: number): void {
    const known = this.wants.get(vmid);
    if (known === undefined || known.want === 'started') return;
    const sinceMs = this.cluster.engine.nowMs - known.sinceMs;
    if (sinceMs > forgivenMs)
      this.fail('S11', `guest ${vmid} ${what}, ${Math.round(sinceMs)} ms after it was wanted ${known.want}`);
  }

  /** `confirmedAtMs`: when the last look at the store before the start began; what was wanted then has to be this. */
  noteStart(host: Host, qemu: Qemu, confirmedAtMs: number): void {
    this.counts.starts += 1;
    this.moves.noteStart(host, qemu);
    this.records.noteStart(host, qemu);
    this.manager.noteStart(host, qemu.vmid);
    this.reasons.delete(qemu.vmid);
    const state = this.cluster.store.read<GuestRecord>(keys.guest(qemu.vmid))?.value.ha?.state.kind;
    if (state === 'failed') this.fail('S12', `guest ${qemu.vmid} starts on ${host.name} although it has failed`);
    this.checkWant(qemu.vmid, `starts on ${host.name}`, this.cluster.engine.nowMs - confirmedAtMs);
  }

  noteTold(host: Host, status: HaStatus): void {
    this.records.noteTold(host, status);
  }

  /** The guard pets. While guests execute, only a renewal that is in the store and was sent within soft may carry that. */
  notePet(host: Host): void {
    if (!host.isExecutingAny() || this.isDisarmed(host.name)) return;
    const { softMs, clockRatePercent } = this.cluster.timing;
    const ageMs = this.cluster.engine.nowMs - (this.renewalSentAtMs.get(host.name) ?? 0);
    if (ageMs <= softMs / (1 - clockRatePercent / 100) + graceMs) return;
    this.fail('S14', `${host.name} is petted while guests execute, ${Math.round(ageMs)} ms after its newest renewal was sent`);
  }

  noteDefer(vmid: number, because: string): void {
    this.reasons.set(vmid, because);
  }

  notePoint(vmid: number, point: ReplicaPoint, image: Image): void {
    this.disks.notePoint(vmid, point, image);
  }

  noteSeal(host: Host, session: Session, askedAtMs: number): void {
    this.counts.seals += 1;
    this.disks.checkSeal(host, session, askedAtMs);
  }

  noteWrite(host: Host, qemu: Qemu): void {
    this.disks.noteWrite(host, qemu);
  }

  noteDisk(host: Host, vmid: number, what: string): void {
    if (what.startsWith('demoted')) this.counts.demotions += 1;
    this.moves.noteDisk(host, vmid, what);
    this.disks.checkDisk(host, vmid, what);
  }

  /** True when `host` holds a whole, undeclined copy that a recovery could use. */
  hasUsableCopy(host: Host, record: GuestRecord): boolean {
    const manifest = host.disk.manifest(record.vmid);
    const newest = manifest === null || manifest.role !== 'replica' ? null : newestPoint(manifest);
    if (newest === null || host.disk.isDamaged(record.vmid)) return false;
    const declined = record.declined?.findLast((copy) => copy.node === host.name);
    return declined === undefined || comparePoints(newest, declined.point) > 0;
  }
}

/** A start or a move that did not succeed is something that the manager decides by. */
function isFailure(status: HaStatus | undefined): boolean {
  return status !== undefined && (status.state === 'failed' || (status.end !== undefined && status.end.result !== 'ok'));
}

function nodeOf(key: string): string {
  return key.slice(prefixes.nodes.length).split('/')[0] ?? '';
}
