import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { HaResource } from '#core/ha/records.ts';
import type { Timing } from '#core/ha/timing.ts';
import { AgentProcess } from '#sim/agent.ts';
import { Checks } from '#sim/checks.ts';
import { blockCount, SimDisk } from '#sim/disk.ts';
import { Dice, Engine } from '#sim/engine.ts';
import { GuardProcess } from '#sim/guard.ts';
import { Host, type Qemu } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import { Network } from '#sim/network.ts';
import { chooseResource } from '#sim/people-faults.ts';
import { People } from '#sim/people.ts';
import type { ProcessWorld } from '#sim/process.ts';
import type { Rules } from '#sim/rules.ts';
import { SimStore } from '#sim/store.ts';
import type { Swarm } from '#sim/swarm.ts';

export type StoryLine = { atMs: number; text: string };

/** A told story is cut at its beginning. */
const storyLines = 600;

/** Everything of one simulated cluster. */
export class Cluster {
  readonly engine = new Engine();
  readonly dice: Dice;
  readonly network: Network;
  readonly store: SimStore;
  readonly hosts: Host[];
  readonly checks: Checks;
  readonly people: People;
  readonly swarm: Swarm;
  readonly rules: Rules;
  readonly timing: Timing;
  story: StoryLine[] = [];
  vmids: number[] = [];
  /** Agents may die between any two steps now. */
  isCrashing = false;
  /** Grows with each healing: what an earlier fault still had in mind does not happen any more. */
  era = 0;
  private writes = 0;
  private nextVmid = 100;
  private readonly startingGuards = new Map<Host, number>();
  private dirty = true;

  constructor(seed: number, swarm: Swarm, rules: Rules, only: ReadonlySet<string> | null) {
    this.swarm = swarm;
    this.rules = rules;
    this.timing = swarm.timing;
    this.dice = new Dice(seed);
    this.network = new Network(this.engine, this.dice, swarm.jitterMs);
    const r = swarm.timing.clockRatePercent / 100;
    this.hosts = Array.from({ length: swarm.nodes }, (_, index) => this.makeHost(`n${index + 1}`, r));
    this.store = new SimStore(this.engine, this.dice, this.network, this.hosts);
    this.checks = new Checks(this, only);
    this.people = new People(this);
    this.store.onApply = (changes, before, tag) => {
      if (this.checks.noteApply(changes, before, tag)) this.touch();
    };
  }

  host(name: string): Host {
    const found = this.hosts.find((host) => host.name === name);
    if (found === undefined) throw new RangeError(`no node ${name}`);
    return found;
  }

  say(text: string): void {
    this.story.push({ atMs: this.engine.nowMs, text });
    if (this.story.length > 2 * storyLines) this.story = this.story.slice(-storyLines);
  }

  /** Who executes, or who may, has changed: the checkers look after this event. */
  touch(): void {
    this.dirty = true;
  }

  /** Runs until `untilMs` of true time, or the first violation. */
  runUntil(untilMs: number): void {
    while (this.checks.violation === null && this.engine.step(untilMs)) {
      if (!this.dirty) continue;
      this.dirty = false;
      this.checks.checkAll();
    }
  }

  /** `crashChance`: of dying between two steps, asked each time. */
  processWorld(host: Host, crashChance: () => number, onCrash: () => void): ProcessWorld {
    return {
      engine: this.engine,
      stillUntilMs: () => host.stillUntilMs,
      rate: host.rate,
      crashNow: () => {
        const chance = this.isCrashing ? crashChance() : 0;
        return chance > 0 && this.dice.yes(chance);
      },
      onCrash,
    };
  }

  startGuardLater(host: Host, afterMs: number): void {
    const { boots } = host;
    if (this.startingGuards.get(host) === boots) return;
    this.startingGuards.set(host, boots);
    this.engine.after(afterMs, () => {
      if (host.boots !== boots) return;
      this.startingGuards.delete(host);
      if (!host.powered || host.guard !== null) return;
      host.guard = new GuardProcess(this, host);
      host.guard.begin();
    });
  }

  startAgentLater(host: Host, afterMs: number): void {
    const { boots } = host;
    this.engine.after(afterMs, () => {
      if (!host.powered || host.boots !== boots || host.agent !== null) return;
      host.agent = new AgentProcess(this, host);
      host.agent.begin();
    });
  }

  /** Counts the guests there are, and forgets those that are gone. */
  countGuests(): number {
    this.vmids = this.vmids.filter((vmid) => this.store.read(keys.guest(vmid)) !== null || this.people.isWaiting());
    return this.vmids.length;
  }

  /** A person makes a guest, at one instant. */
  createGuest(host: Host, dice: Dice): void {
    const { vmid, name, config } = this.chooseGuest(dice);
    const others = this.vmids.filter((other) => other !== vmid);
    host.disk.create(vmid);
    const record: GuestRecord = { vmid, name, config, home: host.name, generation: 1, order: null };
    const chosen = this.swarm.dependencies ? chooseResource(dice, others, vmid) : {};
    const resource: HaResource = { vmid, want: 'started', maxDataAgeMs: null, ...chosen };
    this.say(`a person creates guest ${vmid} (${config.memoryMb} MB) on ${host.name}: ${JSON.stringify(chosen)}`);
    this.store.write(
      [
        { key: keys.guest(vmid), value: JSON.stringify(record) },
        { key: keys.haResource(vmid), value: JSON.stringify(resource) },
      ],
      { node: 'person' },
    );
  }

  /** The same by a request to the node's agent. */
  askForGuest(host: Host, dice: Dice): void {
    if (this.vmids.length > this.swarm.guests + 2) return;
    const { vmid, name, config } = this.chooseGuest(dice);
    this.people.request(host.name, { kind: 'guest-create', vmid, name, config, imports: {}, want: 'started' });
  }

  private chooseGuest(dice: Dice): Pick<GuestRecord, 'vmid' | 'name' | 'config'> {
    const vmid = this.nextVmid;
    this.nextVmid += 1;
    this.vmids.push(vmid);
    const memoryMb = dice.pick(this.swarm.guestMemoryMb);
    return { vmid, name: `guest${vmid}`, config: { cores: 1, memoryMb, disks: [], nics: [], boot: null } };
  }

  /** The operating system of the node ends in order: its guard is stopped, then the machine. */
  endNode(host: Host, request: 'reboot' | 'power-off'): void {
    if (!host.powered) return;
    if (host.guard !== null) host.guard.stop = true;
    const { boots } = host;
    this.engine.after(this.dice.between(1_000, 6_000), () => {
      if (host.boots !== boots) return;
      host.powerOff('shut down by its operating system');
      if (request === 'reboot') this.engine.after(2_000, () => host.powerOn(this.dice.between(4_000, 20_000)));
    });
  }

  /** The guest writes to its disk as long as it executes. */
  writeSoon(host: Host, qemu: Qemu): void {
    this.engine.after(this.dice.between(1, 2 * this.swarm.writesMs), () => {
      if (!qemu.alive) return;
      if (host.isExecuting(qemu)) {
        this.writes += 1;
        const block = this.dice.whole(0, blockCount - 1);
        host.disk.write(qemu.vmid, block, this.writes);
        for (const bitmap of qemu.bitmaps.values()) bitmap.add(block);
        this.checks.noteWrite(host, qemu);
      }
      this.writeSoon(host, qemu);
    });
  }

  /** `tell` gets the power that the controller reports; null: it took an order, or nobody answered. */
  askController(node: string, action: 'read' | 'off' | 'on', tell: (power: 'on' | 'off' | null) => void): void {
    const host = this.host(node);
    const late = this.dice.yes(0.1) ? this.dice.between(800, 3_500) : 0;
    this.engine.after(this.dice.between(30, 400) + late, () => {
      if (!host.plugged) return this.engine.after(limits.bmcCallMs, () => tell(null));
      if (action === 'off') host.powerOff('cut by its controller');
      if (action === 'on') host.powerOn(this.dice.between(4_000, 20_000));
      const lies = this.swarm.unsafe.lyingControllers;
      const power = host.powered && !lies ? 'on' : 'off';
      this.engine.after(this.dice.between(10, 100), () => tell(action === 'read' ? power : null));
    });
  }

  private makeHost(name: string, r: number): Host {
    const rate = this.dice.pick([1 - r, 1 + r, this.dice.between(1 - r, 1 + r)]);
    const disk = new SimDisk(name, this.rules);
    const host = new Host(name, rate, disk, {
      engine: this.engine,
      dice: this.dice,
      timing: this.timing,
      say: (text) => this.say(text),
      touch: () => this.touch(),
      boot: (booted) => {
        this.startGuardLater(booted, this.dice.between(50, 500));
        this.startAgentLater(booted, this.dice.between(200, 2_000));
      },
      quick: { freezeMs: 60, killMs: 60 },
    });
    host.watchdogKind = this.swarm.unsafe.watchdog;
    disk.onChange = (vmid, what) => this.checks.noteDisk(host, vmid, what);
    return host;
  }
}
