import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { StepEvent } from '#core/ha/cluster-round/steps.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { HaStatus, Permit } from '#core/ha/records.ts';
import type { Cluster } from '#sim/cluster.ts';
import type { Host, Qemu } from '#sim/host.ts';
import { keys } from '#sim/known-keys.ts';
import type { SimChange, SimEntry } from '#sim/store.ts';

type Fail = (invariant: string, text: string) => void;

/** S16: what the record tells of claims, orders, starts and stops, from which every report is made, is what happened. */
export class RecordChecks {
  private readonly cluster: Cluster;
  private readonly fail: Fail;
  private readonly starts = new Set<string>();

  constructor(cluster: Cluster, fail: Fail) {
    this.cluster = cluster;
    this.fail = fail;
  }

  noteStart(host: Host, { vmid, generation, nodeEpoch }: Qemu): void {
    this.starts.add(`${vmid} ${host.name} ${generation} ${nodeEpoch}`);
  }

  /** The agent of `host` is about to tell this. */
  noteTold(host: Host, { vmid, generation, nodeEpoch, state, end }: HaStatus): void {
    const ran = this.starts.has(`${vmid} ${host.name} ${generation} ${nodeEpoch}`);
    const claims = state === 'running' || (end?.result === 'ok' && state !== 'stopped' && this.isRun(vmid));
    if (claims && !ran)
      this.fail('S16', `${host.name} tells that guest ${vmid} runs as generation ${generation}, and it was never let run`);
    const alive = host.qemus.get(vmid)?.alive === true;
    if (state === 'stopped' && alive) this.fail('S16', `${host.name} tells that guest ${vmid} is stopped, and its QEMU is alive`);
  }

  /** A manager's commit: its events tell of what it wrote, and all of it. */
  noteEvents(changes: readonly SimChange[], before: readonly (SimEntry | null)[], events: readonly StepEvent[]): void {
    for (const event of events) {
      if (event.kind === 'claimed' && !isRevoked(changes, event.node))
        this.fail('S16', `an event tells that ${event.node} is claimed, and it is not`);
      if (event.kind === 'ordered' && homeOf(changes, event.vmid) !== event.node)
        this.fail('S16', `an event tells of an order for guest ${event.vmid} on ${event.node}, and it has none`);
    }
    for (const [index, { key, entry }] of changes.entries()) {
      const was = before[index]?.value;
      if (key.endsWith('/permit') && isRevoked(changes, nodeOf(key)) && !events.some(({ kind }) => kind === 'claimed'))
        this.fail('S16', `${nodeOf(key)} is claimed, and no event tells of it`);
      if (!key.startsWith(prefixes.guests) || was === undefined || entry === null) continue;
      const { home, vmid } = entry.value as GuestRecord;
      const isTold = events.some((event) => event.kind === 'ordered' && event.vmid === vmid && event.node === home);
      if (home !== (was as GuestRecord).home && !isTold)
        this.fail('S16', `guest ${vmid} goes to ${home}, and no event tells of it`);
    }
  }

  private isRun(vmid: number): boolean {
    return this.cluster.store.read<GuestRecord>(keys.guest(vmid))?.value.order?.kind === 'run';
  }
}

function isRevoked(changes: readonly SimChange[], node: string): boolean {
  return changes.some(
    ({ key, entry }) => key === keys.nodePermit(node) && (entry?.value as Permit | undefined)?.state === 'revoked',
  );
}

function homeOf(changes: readonly SimChange[], vmid: number | null): string | null {
  const change = changes.find(({ key }) => vmid !== null && key === keys.guest(vmid));
  return (change?.entry?.value as GuestRecord | undefined)?.home ?? null;
}

function nodeOf(key: string): string {
  return key.slice(prefixes.nodes.length).split('/')[0] ?? '';
}
