import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { nextStatus, type StatusChange } from '#core/guest/order-end.ts';
import type { HaStatus } from '#core/ha/records.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { keys } from '#sim/known-keys.ts';
import type { Task } from '#sim/process.ts';

/** As programs/agent/status-desk.ts: what a node tells of its guests, once each time it changes. */
export class StatusDesk {
  private readonly agent: AgentProcess;
  private readonly last = new Map<number, HaStatus>();
  private readonly unsure = new Set<number>();

  constructor(agent: AgentProcess) {
    this.agent = agent;
  }

  /** What was told last, by this agent or one before it. */
  told(vmid: number): HaStatus | null {
    return this.last.get(vmid) ?? this.agent.read<HaStatus>(keys.haStatus(vmid))?.value ?? null;
  }

  forget(vmid: number): void {
    this.last.delete(vmid);
  }

  /** Raises AppError when it cannot be told now. */
  *tell(record: GuestRecord, change: StatusChange): Task<void> {
    const before = this.told(record.vmid);
    const status: HaStatus = {
      ...nextStatus(this.agent.host.name, record, before, change),
      atMs: this.agent.host.wallMs(),
    };
    if (
      before !== null &&
      !this.unsure.has(record.vmid) &&
      JSON.stringify({ ...status, atMs: before.atMs }) === JSON.stringify(before)
    )
      return;
    this.agent.cluster.checks.noteTold(this.agent.host, status);
    this.unsure.add(record.vmid);
    if (yield* this.write(status)) this.last.set(record.vmid, status);
    this.unsure.delete(record.vmid);
  }

  /** False when a later home has spoken. */
  private *write(status: HaStatus): Task<boolean> {
    const key = keys.haStatus(status.vmid);
    for (let attempt = 0; attempt < 4; attempt += 1) {
      const current = yield* this.agent.readNow<HaStatus>(key);
      if (current !== null && current.value.generation > status.generation) return false;
      const modRevision = current?.modRevision ?? 0n;
      const outcome = yield* this.agent.commit([{ key, modRevision }], [{ key, value: JSON.stringify(status) }]);
      if (outcome.kind === 'committed') return true;
    }
    throw new AppError('conflict', `writing ${key}: four attempts failed`);
  }
}
