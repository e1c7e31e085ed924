import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { AgentRecord, HaMemory, HaResource } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import { keys } from '#sim/known-keys.ts';

/** A thing that people want otherwise, and how they ask for it. */
type Wrong = { what: string; mend: () => void };

/** Between two requests for the same. */
const patienceMs = 10_000;

/** People who put everything right that they, or others, did: nothing is held back, all guests are wanted started. */
export class Mending {
  private readonly cluster: Cluster;
  private readonly askedAtMs = new Map<string, number>();

  constructor(cluster: Cluster) {
    this.cluster = cluster;
  }

  /** Asks for what is still wrong; null when nothing is. */
  mend(): string | null {
    const { engine, store } = this.cluster;
    if (!store.canCommit()) return 'the store takes no commits';
    const wrongs = [...this.listHeld(), ...this.listGuests()];
    for (const { what, mend } of wrongs) {
      if (engine.nowMs - (this.askedAtMs.get(what) ?? -patienceMs) < patienceMs) continue;
      this.askedAtMs.set(what, engine.nowMs);
      mend();
    }
    return wrongs[0]?.what ?? null;
  }

  private listHeld(): Wrong[] {
    const { people, store, hosts } = this.cluster;
    const memory = store.read<HaMemory>(keys.haMemory)?.value;
    const wrongs: Wrong[] = [];
    if (memory !== undefined && memory.disarm !== null)
      wrongs.push({ what: 'it is disarmed', mend: () => people.command({ kind: 'arm' }) });
    for (const node of memory?.drains ?? [])
      wrongs.push({ what: `${node} is drained`, mend: () => people.command({ kind: 'undrain', node }) });
    for (const [node, { quarantined }] of Object.entries(memory?.flaps ?? {})) {
      if (quarantined)
        wrongs.push({ what: `${node} is quarantined`, mend: () => people.command({ kind: 'release-quarantine', node }) });
    }
    for (const host of hosts) {
      const agent = store.read<AgentRecord>(keys.nodeAgent(host.name))?.value;
      if (agent === undefined || agent.mode === 'active' || agent.bootId !== host.bootId) continue;
      wrongs.push({ what: `${host.name} is to end`, mend: () => people.request(host.name, { kind: 'node-stay' }) });
    }
    return wrongs;
  }

  /** A guest that has failed is disabled first, which clears it. */
  private listGuests(): Wrong[] {
    const { people, store, vmids } = this.cluster;
    return vmids.flatMap((vmid): Wrong[] => {
      const want = store.read<HaResource>(keys.haResource(vmid))?.value.want;
      const state = store.read<GuestRecord>(keys.guest(vmid))?.value.ha?.state.kind;
      if (want === undefined) return [];
      if (state === 'failed') {
        const mend = () => people.change(vmid, { want: 'disabled' });
        return [{ what: `guest ${vmid} has failed`, mend }];
      }
      return want === 'started'
        ? []
        : [{ what: `guest ${vmid} is wanted ${want}`, mend: () => people.change(vmid, { want: 'started' }) }];
    });
  }
}
