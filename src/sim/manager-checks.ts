import type { GuestRecord } from '#core/guest/guest-record.ts';
import { type CompiledRules, compileRules } from '#core/ha/manager/compiled-rules.ts';
import { type GuestEntry, type GuestState, targetOf } from '#core/ha/manager/memory.ts';
import type { AgentRecord, HaMemory, HaResource, HaRule } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Host } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';

type Fail = (invariant: string, text: string) => void;

/** What a manager's commit was planned by: the rules, and the wall clock of its node. */
type Planned = { rules: readonly HaRule[]; wallMs: number };

/** No move is automatic more often than this without a change of what the manager decides by. */
const oscillationMs = 3_600_000;

/**
 * What must hold of a manager's decisions about guests: S10 (rules at each placement), S12 (failed is left by disabled only), S15 (a hold
 * freezes nothing unfinished, nobody who is wanted is stopped), L4 (no oscillation), L7 (quarantine).
 */
export class ManagerChecks {
  private readonly cluster: Cluster;
  private readonly fail: Fail;
  private compiled: { rules: readonly HaRule[]; compiled: CompiledRules } | null = null;
  /** Where a manager put each guest last, and whom it was to be kept apart from by the rules of that time. */
  private readonly placed = new Map<number, { node: string; rivals: readonly string[] }>();
  /** The last move of each guest, and where it has been since people or faults last changed what the manager decides by. */
  private readonly moved = new Map<number, { atMs: number; inputs: number; arrivals: number; visited: Set<string> }>();
  /** Grows with each guest that has a new home: it left room where it was. */
  private arrivals = 0;
  private readonly claimed = new Map<string, { atMs: number; wallMs: number }[]>();
  /** Grows with everything that the manager decides by: nodes, rules, settings, wishes, commands, failed starts. */
  private inputs = 0;

  constructor(cluster: Cluster, fail: Fail) {
    this.cluster = cluster;
    this.fail = fail;
  }

  noteInput(): void {
    this.inputs += 1;
  }

  /** A node that is asked to end and then to stay is another one for the manager in between: room is left there, and may be taken. */
  noteAgent(before: unknown, next: unknown): void {
    const mode = (record: unknown) => (record as AgentRecord | undefined)?.mode;
    if (mode(before) !== mode(next)) this.noteInput();
  }

  /** A rule that is taken back binds nobody, and set again it is newer than both places. */
  noteRules(): void {
    const { apart } = this.compile(this.cluster.people.rules());
    for (const [vmid, { node, rivals }] of this.placed) {
      const still = apart.get(String(vmid)) ?? [];
      this.placed.set(vmid, { node, rivals: rivals.filter((rival) => still.includes(rival)) });
    }
  }

  /** `wallMs`: by the clock of who claimed it. */
  noteClaim(node: string, wallMs: number): void {
    this.noteInput();
    this.claimed.set(node, [...(this.claimed.get(node) ?? []), { atMs: this.cluster.engine.nowMs, wallMs }].slice(-20));
  }

  /** A person released the node, or somebody changed what counts: earlier claims say nothing any more. */
  forgetClaims(node: string | null): void {
    if (node === null) this.claimed.clear();
    else this.claimed.delete(node);
  }

  /** The memory's commit took effect. */
  noteMemory(before: HaMemory | undefined, next: HaMemory): void {
    if (JSON.stringify(before?.nodes) !== JSON.stringify(next.nodes)) this.noteInput();
    if (JSON.stringify(before?.drains) !== JSON.stringify(next.drains)) this.noteInput();
    if (listQuarantined(before) !== listQuarantined(next)) this.noteInput();
    const wasWaiting = (before?.disarm ?? null) === null || before?.disarm?.stage === 'waiting';
    if (!wasWaiting || next.disarm === null || next.disarm.stage === 'waiting') return;
    for (const { ha, vmid } of this.records()) {
      if (ha !== undefined && isUnfinished(ha.state) && this.want(vmid) === 'started')
        this.fail('S15', `the disarm is in force while guest ${vmid} is ${ha.state.kind} on ${ha.node}`);
    }
  }

  /** A guest's commit of a manager took effect. */
  noteGuest(before: GuestRecord, next: GuestRecord, by: Planned): void {
    const was = before.ha;
    const is = next.ha;
    if (was?.state.kind === 'failed' && is !== undefined && is.state.kind !== 'failed' && this.want(next.vmid) !== 'disabled')
      this.fail('S12', `guest ${next.vmid} goes from failed to ${is.state.kind} (${is.because})`);
    // The wish that goes with an operator's stop is written in this very commit.
    const stops = is?.state.kind === 'stop-requested' && was !== undefined && was.state.kind !== 'stop-requested';
    if (stops && this.want(next.vmid) === 'started')
      this.fail('S10', `guest ${next.vmid} is wanted started and is to stop (${is.because})`);
    if (is === undefined) return;
    if (was !== undefined && was.state.kind !== 'frozen' && is.state.kind === 'frozen') this.checkFreeze(next, was, is);
    if (next.home !== before.home) this.arrivals += 1;
    const target = targetOf(is.state);
    const aimed = target !== null && (was === undefined || targetOf(was.state) !== target) ? target : null;
    const placed = next.home !== before.home && targetOf(was?.state ?? is.state) !== next.home ? next.home : null;
    for (const node of new Set([aimed, placed])) if (node !== null) this.checkPlace(next, node, by, node === aimed);
    if (aimed !== null && was !== undefined && !isAsked(was, is)) this.checkOscillation(next, aimed, is);
    // It comes of a fault, be it long after it: those who belong with it, or not, go by where it is.
    if (was?.state.kind === 'awaiting-recovery' && placed !== null) this.noteInput();
  }

  private checkFreeze({ vmid }: GuestRecord, was: GuestEntry, is: GuestEntry): void {
    if (is.because.startsWith('disarmed') && isUnfinished(was.state) && this.want(vmid) === 'started')
      this.fail('S15', `guest ${vmid} is frozen by the disarm while it was ${was.state.kind}`);
  }

  /** A manager chose `node` for the guest. */
  private checkPlace({ vmid }: GuestRecord, node: string, by: Planned, moves: boolean): void {
    const { ranks, apart } = this.compile(by.rules);
    const rank = ranks.get(String(vmid));
    if (rank !== undefined && !rank.has(node)) this.fail('S10', `guest ${vmid} is placed on ${node}, which a hard rule forbids`);
    // Who is not managed is bound by no rule.
    const rivals = (apart.get(String(vmid)) ?? []).filter((rival) => this.want(Number(rival)) !== 'ignored');
    this.placed.set(vmid, { node, rivals });
    this.checkQuarantine(vmid, node, by.wallMs, moves);
  }

  /** The guest is let run: where it was placed by a rule none of its rivals runs, unless the rule is newer than both places. */
  noteStart(host: Host, vmid: number): void {
    const place = this.placed.get(vmid);
    if (place?.node !== host.name) return;
    const rival = place.rivals.find((other) => {
      if (this.want(Number(other)) === 'ignored') return false;
      const qemu = host.qemus.get(Number(other));
      return qemu !== undefined && host.isExecuting(qemu);
    });
    if (rival !== undefined)
      this.fail('S10', `guest ${vmid} starts on ${host.name}, where it was placed and where its rival ${rival} runs`);
  }

  /** Claimed too often, the node has to be quarantined by now; and nobody moves to it of the manager's own accord. */
  private checkQuarantine(vmid: number, node: string, leaderWallMs: number, moves: boolean): void {
    const { nowMs } = this.cluster.engine;
    const { quarantineAfter, quarantineWindowMs } = this.cluster.people.settings();
    const isQuarantined = this.cluster.store.read<HaMemory>(keys.haMemory)?.value.flaps[node]?.quarantined === true;
    if (isQuarantined && moves) this.fail('L7', `guest ${vmid} moves to ${node}, which is quarantined`);
    if (quarantineAfter === 0 || isQuarantined) return;
    // Counted by the wall clocks of who leads and who led, which are 1 % wrong and may be set to any time.
    const claims = (this.claimed.get(node) ?? []).filter(({ atMs }) => nowMs - atMs < quarantineWindowMs * 0.98);
    const recent = claims.filter(
      ({ wallMs, atMs }) => Math.abs(leaderWallMs - wallMs - (nowMs - atMs)) < quarantineWindowMs * 0.02,
    );
    if (recent.length >= quarantineAfter)
      this.fail('L7', `guest ${vmid} is placed on ${node}, claimed ${recent.length} times and not quarantined`);
  }

  private checkOscillation({ vmid, home }: GuestRecord, to: string, { because }: GuestEntry): void {
    const { inputs, arrivals } = this;
    const { nowMs } = this.cluster.engine;
    const last = this.moved.get(vmid);
    const isSame = last !== undefined && last.inputs === inputs && nowMs - last.atMs < oscillationMs;
    const visited = new Set([...(isSame ? last.visited : []), home]);
    this.moved.set(vmid, { atMs: nowMs, inputs, arrivals, visited });
    // Room that others left is worth a move to where it has not been; never one back.
    if (!isSame || (last.arrivals < arrivals && !last.visited.has(to))) return;
    const agoMs = Math.round(nowMs - last.atMs);
    this.fail('L4', `guest ${vmid} moves to ${to} (${because}), ${agoMs} ms after its last move, and nothing changed in between`);
  }

  private compile(rules: readonly HaRule[]): CompiledRules {
    if (this.compiled?.rules !== rules) {
      const names = this.cluster.hosts.map((host) => host.name);
      this.compiled = { rules, compiled: compileRules(rules, names) };
    }
    return this.compiled.compiled;
  }

  private want(vmid: number): HaResource['want'] | null {
    return this.cluster.store.read<HaResource>(keys.haResource(vmid))?.value.want ?? null;
  }

  private records(): GuestRecord[] {
    return this.cluster.vmids.flatMap((vmid) => this.cluster.store.read<GuestRecord>(keys.guest(vmid))?.value ?? []);
  }
}

function listQuarantined(memory: HaMemory | undefined): string {
  const flaps = Object.entries(memory?.flaps ?? {});
  return flaps.flatMap(([node, { quarantined }]) => (quarantined ? [node] : [])).join();
}

/** Something that has begun and that a disarm has to wait for. */
function isUnfinished(state: GuestState): boolean {
  switch (state.kind) {
    case 'start-requested-elsewhere':
    case 'moving-live':
    case 'moving-cold':
    case 'awaiting-fence':
    case 'awaiting-recovery':
      return true;
    case 'start-requested':
    case 'active':
    case 'stop-requested':
    case 'inactive':
    case 'frozen':
    case 'failed':
      return false;
  }
}

/** A person asked for the move. */
function isAsked(was: GuestEntry, is: GuestEntry): boolean {
  return was.command !== null || is.because === 'a move was asked for';
}
