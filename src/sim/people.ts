import { limits } from '#base/limits.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { type FullHaSettings, withDefaults } from '#core/ha/ha-settings.ts';
import type { Command } from '#core/ha/manager/facts.ts';
import type { HaCommand, HaResource, HaRule, HaSettings } from '#core/ha/records.ts';
import type { RequestOrder, RequestRecord } from '#core/ha/requests.ts';
import type { Cluster } from '#sim/cluster.ts';
import { keys } from '#sim/known-keys.ts';

const person = { node: 'person' };

/** People at the command line: what they write is there at one instant, and they come back for the answer. */
export class People {
  private readonly cluster: Cluster;
  private asked = 0;
  /** Commands and requests whose end nobody has seen yet. */
  private open = 0;

  /** Guests that a rule kept together with others at some time. */
  private readonly together = new Set<string>();
  private readonly ruleIds = new Set<string>();
  private rebalances = false;

  constructor(cluster: Cluster) {
    this.cluster = cluster;
  }

  isWaiting(): boolean {
    return this.open > 0;
  }

  rules(): HaRule[] {
    return [...this.ruleIds].flatMap((id) => this.cluster.store.read<HaRule>(keys.haRule(id))?.value ?? []);
  }

  settings(): FullHaSettings {
    return withDefaults(this.cluster.store.read<HaSettings>(keys.haSettings)?.value ?? null);
  }

  /** A move of another guest may drag this one along, or the balance of loads may move it. */
  mayDrag(vmid: number): boolean {
    return this.rebalances || this.together.has(String(vmid));
  }

  /** Creates the command's record; `times` 2: twice at the same instant. `then` is told whether it was accepted. */
  command(command: Command, times = 1, then: (accepted: boolean) => void = () => {}): void {
    const { cluster } = this;
    for (let time = 0; time < times; time += 1) {
      const id = this.nextId();
      const record: HaCommand = { id, command, createdAtMs: cluster.hosts[0]?.wallMs() ?? 0, state: 'waiting', because: '' };
      cluster.say(`a person asks: ${JSON.stringify(command)}`);
      cluster.store.write([{ key: keys.haCommand(id), value: JSON.stringify(record) }], person);
      this.await((waitedMs) => this.lookAtCommand(id, waitedMs, then));
    }
  }

  /** `then` follows when it was done. */
  request(node: string, order: RequestOrder, then: () => void = () => {}): void {
    const { cluster } = this;
    const id = this.nextId();
    const record: RequestRecord = { id, node, createdAtMs: 0, ...order, state: 'waiting' };
    cluster.say(`a person asks ${node}: ${JSON.stringify(order)}`);
    cluster.store.write([{ key: keys.request(id), value: JSON.stringify(record) }], person);
    this.await((waitedMs) => this.lookAtRequest(id, waitedMs, then));
  }

  setRule(rule: HaRule): void {
    this.ruleIds.add(rule.id);
    if (rule.kind === 'keep-together') for (const guest of rule.guests) this.together.add(guest);
    this.cluster.say(`a person sets the rule ${JSON.stringify(rule)}`);
    this.cluster.store.write([{ key: keys.haRule(rule.id), value: JSON.stringify(rule) }], person);
  }

  removeRule(id: string): void {
    if (this.cluster.store.read(keys.haRule(id)) === null) return;
    this.cluster.say(`a person removes the rule ${id}`);
    this.cluster.store.write([{ key: keys.haRule(id), value: null }], person);
  }

  setSettings(settings: HaSettings): void {
    this.rebalances ||= settings.autoRebalance !== null && settings.autoRebalance !== undefined;
    this.cluster.say(`a person sets ${JSON.stringify(settings)}`);
    this.cluster.store.write([{ key: keys.haSettings, value: JSON.stringify(settings) }], person);
  }

  change(vmid: number, change: Partial<HaResource>): void {
    const { store } = this.cluster;
    const resource = store.read<HaResource>(keys.haResource(vmid));
    if (resource === null) return;
    const next: HaResource = { ...resource.value, ...change };
    if (JSON.stringify(next) === resource.text) return;
    this.cluster.say(`a person wants of guest ${vmid}: ${JSON.stringify(change)}`);
    store.write([{ key: keys.haResource(vmid), value: JSON.stringify(next) }], person);
  }

  editConfig(vmid: number, cores: number): void {
    const { store } = this.cluster;
    const record = store.read<GuestRecord>(keys.guest(vmid));
    if (record === null) return;
    const next: GuestRecord = { ...record.value, config: { ...record.value.config, cores } };
    store.write([{ key: keys.guest(vmid), value: JSON.stringify(next) }], person);
  }

  private nextId(): string {
    this.asked += 1;
    return `${String(this.asked).padStart(13, '0')}-sim`;
  }

  /** `look` returns true once the person is done with it. */
  private await(look: (waitedMs: number) => boolean): void {
    const { engine, store } = this.cluster;
    const sinceMs = engine.nowMs;
    this.open += 1;
    const again = () => {
      if (store.canCommit() && look(engine.nowMs - sinceMs)) this.open -= 1;
      else engine.after(limits.cliPollMs, again);
    };
    engine.after(limits.cliPollMs, again);
  }

  /** Answered: read and removed. Not taken for long: withdrawn. */
  private lookAtCommand(id: string, waitedMs: number, then: (accepted: boolean) => void): boolean {
    const { cluster } = this;
    const key = keys.haCommand(id);
    const record = cluster.store.read<HaCommand>(key)?.value;
    if (record === undefined) return true;
    const isWithdrawn = record.state === 'waiting' && waitedMs > limits.commandPickupMs;
    if (record.state === 'waiting' && !isWithdrawn) return false;
    cluster.say(`the command ${id} is ${isWithdrawn ? 'withdrawn' : `${record.state}: ${record.because}`}`);
    cluster.store.write([{ key, value: null }], person);
    then(record.state === 'accepted');
    return true;
  }

  private lookAtRequest(id: string, waitedMs: number, then: () => void): boolean {
    const { cluster } = this;
    const key = keys.request(id);
    const record = cluster.store.read<RequestRecord>(key)?.value;
    if (record === undefined) return true;
    const isWithdrawn = record.state === 'waiting' && waitedMs > limits.requestPickupMs;
    if (record.state !== 'done' && record.state !== 'failed' && !isWithdrawn) return false;
    cluster.say(`the request ${id} to ${record.kind} is ${isWithdrawn ? 'withdrawn' : record.state}`);
    cluster.store.write([{ key, value: null }], person);
    if (record.state === 'done') then();
    return true;
  }
}
