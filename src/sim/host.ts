import type { BitmapBasis } from '#core/replica/send-plan.ts';
import { clockStepMs } from '#core/ha/timing.ts';
import type { AgentProcess } from '#sim/agent.ts';
import type { SimDisk } from '#sim/disk.ts';
import type { Dice, Engine } from '#sim/engine.ts';
import type { GuardProcess } from '#sim/guard.ts';
import type { ProcessState } from '#core/guest/process-state.ts';
import type { GuardReport } from '#core/ha/guard-report.ts';

/**
 * A guest's process. It executes guest code when it is alive, running or halting, not frozen, and its machine has power and does not stand
 * still.
 */
export type Qemu = {
  vmid: number;
  generation: number;
  nodeEpoch: number;
  alive: boolean;
  run: Exclude<ProcessState, 'unknown'>;
  /** It was asked to power down; it ends with that, or is left `off`, as it is told to at that instant. */
  powersDown: boolean;
  /** Blocks written since the bitmap began to count, for each target; held by the process. */
  bitmaps: Map<string, Set<number>>;
  /** The blocks of the cycle under way, given back when it fails. */
  cycles: Map<string, Set<number>>;
  /** The basis file of the run folder. */
  bases: Map<string, BitmapBasis>;
  onExit: ((reason: string) => void)[];
};

export type Group = { frozen: boolean; freezing: boolean };

/** How a host's watchdog behaves; everything but `true` breaks the promise that the safety argument rests on. */
export type WatchdogKind = 'true' | 'absent' | 'slow';

export type HostWorld = {
  engine: Engine;
  dice: Dice;
  timing: { watchdogMs: number; resetMs: number; clockRatePercent: number };
  say: (text: string) => void;
  /** Something that decides who executes has changed. */
  touch: () => void;
  /** The operating system is up: start the programs. */
  boot: (host: Host) => void;
  quick: { freezeMs: number; killMs: number };
};

/** One machine: power, clock, watchdog, control groups, guests' processes, and its two programs. */
export class Host {
  readonly name: string;
  readonly rate: number;
  readonly disk: SimDisk;
  readonly world: HostWorld;
  wallOffsetMs = 1_700_000_000_000;
  powered = false;
  /** Without the plug its management controller is dead too. */
  plugged = true;
  stillUntilMs = 0;
  memberDownUntilMs = 0;
  boots = 0;
  bootId: string;
  bootedAtMs = 0;
  offSinceMs = 0;
  watchdog: { petAtMs: number } | null = null;
  watchdogKind: WatchdogKind = 'true';
  watchdogBroken = false;
  readonly groups = new Map<number, Group>();
  readonly qemus = new Map<number, Qemu>();
  guard: GuardProcess | null = null;
  agent: AgentProcess | null = null;
  guardFile: GuardReport | null = null;
  agentAlive: { atBootMs: number; load: { guestsRunning: number; memoryUsedMb: number } } | null = null;
  releaseAsked: string | null = null;
  freezeStuckUntilMs = 0;
  killStuckUntilMs = 0;
  startsFailUntilMs = 0;
  startsSlowUntilMs = 0;
  /** How many more starts of a guest fail here. */
  readonly startsToFail = new Map<number, number>();
  /** Guests that do not hear the request to power down, until then. */
  deafUntilMs = 0;

  constructor(name: string, rate: number, disk: SimDisk, world: HostWorld) {
    this.name = name;
    this.bootId = `${name}-boot0`;
    this.rate = rate;
    this.disk = disk;
    this.world = world;
  }

  bootMs(): number {
    return Math.floor(((this.world.engine.nowMs - this.bootedAtMs) * this.rate) / clockStepMs) * clockStepMs;
  }

  wallMs(): number {
    return Math.round(this.wallOffsetMs + this.world.engine.nowMs * this.rate);
  }

  isMemberUp(): boolean {
    const { nowMs } = this.world.engine;
    return this.powered && nowMs >= this.stillUntilMs && nowMs >= this.memberDownUntilMs;
  }

  isExecuting(qemu: Qemu): boolean {
    return (qemu.run === 'running' || qemu.run === 'halting') && this.isResponsive(qemu);
  }

  /** The process gets time: it can run its guest, answer, and move blocks. */
  isResponsive(qemu: Qemu): boolean {
    if (!qemu.alive || !this.powered || this.world.engine.nowMs < this.stillUntilMs) return false;
    return this.groups.get(qemu.nodeEpoch)?.frozen !== true;
  }

  isExecutingAny(): boolean {
    for (const qemu of this.qemus.values()) if (this.isExecuting(qemu)) return true;
    return false;
  }

  powerOn(bootMs: number): void {
    if (this.powered) return;
    this.powered = true;
    this.boots += 1;
    this.bootId = `${this.name}-boot${this.boots}`;
    const boot = this.boots;
    this.bootedAtMs = this.world.engine.nowMs;
    this.memberDownUntilMs = this.world.engine.nowMs + bootMs;
    this.world.say(`${this.name} has power and boots in ${Math.round(bootMs)} ms`);
    this.world.engine.after(bootMs, () => {
      if (this.powered && this.boots === boot) this.world.boot(this);
    });
  }

  /** Everything that runs is gone at once; what is on disk stays. */
  powerOff(why: string): void {
    if (!this.powered) return;
    this.world.say(`${this.name} loses power: ${why}`);
    this.powered = false;
    this.offSinceMs = this.world.engine.nowMs;
    if (this.guard !== null) this.guard.alive = false;
    if (this.agent !== null) this.agent.end();
    this.guard = null;
    this.agent = null;
    for (const qemu of this.qemus.values()) {
      qemu.alive = false;
      qemu.onExit = [];
    }
    this.qemus.clear();
    this.groups.clear();
    this.disk.forgetSessions();
    this.watchdog = null;
    this.guardFile = null;
    this.agentAlive = null;
    this.releaseAsked = null;
    this.stillUntilMs = 0;
    this.freezeStuckUntilMs = 0;
    this.killStuckUntilMs = 0;
    this.world.touch();
  }

  stopStill(untilMs: number): void {
    this.stillUntilMs = Math.max(this.stillUntilMs, untilMs);
    this.world.touch();
    this.world.engine.at(this.stillUntilMs, () => this.world.touch());
  }

  /** Opens and pets, or pets. The device resets the machine when it is not petted in time, whoever petted it before. */
  pet(): void {
    if (this.watchdog !== null) {
      this.watchdog.petAtMs = this.world.engine.nowMs;
      return;
    }
    this.watchdog = { petAtMs: this.world.engine.nowMs };
    this.watch(this.boots);
  }

  private watch(boot: number): void {
    const { engine, timing } = this.world;
    if (this.watchdog === null || this.boots !== boot || !this.powered) return;
    // The slowest watchdog that the profile allows for.
    const patienceMs = timing.watchdogMs * (1 + timing.clockRatePercent / 100) * (this.watchdogKind === 'slow' ? 2 : 1);
    const dueMs = this.watchdog.petAtMs + patienceMs;
    if (engine.nowMs < dueMs) {
      engine.at(dueMs, () => this.watch(boot));
      return;
    }
    if (this.watchdogKind === 'absent') return;
    this.world.say(`${this.name}'s watchdog resets it`);
    engine.after(timing.resetMs, () => {
      if (this.boots !== boot || !this.powered) return;
      this.powerOff('reset by its watchdog');
      engine.after(1, () => this.powerOn(this.world.dice.between(5_000, 25_000)));
    });
  }

  freeze(epoch: number): void {
    const group = this.groups.get(epoch);
    if (group === undefined || group.freezing || group.frozen) return;
    group.freezing = true;
    const confirm = () => {
      if (this.groups.get(epoch) !== group || !group.freezing) return;
      if (this.world.engine.nowMs < this.freezeStuckUntilMs) return this.world.engine.at(this.freezeStuckUntilMs, confirm);
      group.frozen = true;
      group.freezing = false;
      this.world.touch();
    };
    this.world.engine.after(this.world.dice.between(1, this.world.quick.freezeMs), confirm);
  }

  thaw(epoch: number): void {
    const group = this.groups.get(epoch);
    if (group === undefined) return;
    group.frozen = false;
    group.freezing = false;
    this.world.touch();
  }

  killGroup(epoch: number): void {
    const doomed = [...this.qemus.values()].filter((qemu) => qemu.nodeEpoch === epoch);
    const kill = () => {
      if (this.world.engine.nowMs < this.killStuckUntilMs) return this.world.engine.at(this.killStuckUntilMs, kill);
      for (const qemu of doomed) this.killQemu(qemu, 'killed with its group');
    };
    if (doomed.some((qemu) => qemu.alive)) this.world.engine.after(this.world.dice.between(1, this.world.quick.killMs), kill);
  }

  /** Asks the guest by ACPI. A frozen one answers later, a deaf one when it hears again. */
  powerDown(qemu: Qemu): void {
    if (qemu.powersDown) return;
    qemu.powersDown = true;
    const { engine, dice } = this.world;
    const goDown = () => {
      if (!qemu.alive || !qemu.powersDown) return;
      if (!this.isExecuting(qemu) || engine.nowMs < this.deafUntilMs) return engine.after(500, goDown);
      qemu.powersDown = false;
      if (qemu.run === 'running') return this.killQemu(qemu, 'powered down');
      qemu.run = 'off';
      this.world.say(`guest ${qemu.vmid} has powered down on ${this.name}; its disks stay open`);
      this.world.touch();
    };
    engine.after(dice.between(500, 8_000), goDown);
  }

  killQemu(qemu: Qemu, reason: string): void {
    if (!qemu.alive) return;
    qemu.alive = false;
    if (this.qemus.get(qemu.vmid) === qemu) this.qemus.delete(qemu.vmid);
    this.world.say(`guest ${qemu.vmid} ends on ${this.name}: ${reason}`);
    for (const tell of qemu.onExit.splice(0)) this.world.engine.after(5, () => tell(reason));
    this.world.touch();
  }

  /** Whether a start of the guest fails now; a start that fails a number of times counts down. */
  failsToStart(vmid: number): boolean {
    const left = this.startsToFail.get(vmid) ?? 0;
    if (left > 0) this.startsToFail.set(vmid, left - 1);
    return left > 0 || this.world.engine.nowMs < this.startsFailUntilMs;
  }

  isPopulated(epoch: number): boolean {
    for (const qemu of this.qemus.values()) if (qemu.alive && qemu.nodeEpoch === epoch) return true;
    return false;
  }
}
