import { keys } from '#core/ha/keys.ts';
import type { Heartbeat, Permit } from '#core/ha/records.ts';
import { type DrillStore, readValue, waitUntil } from '#lab/drills/drill-store.ts';

/** Waits until each node holds a permit, renews under it and serves, with an agent that answers. */
export async function waitServing(store: DrillStore, nodes: string[], deadlineMs = 90_000): Promise<void> {
  await Promise.all(nodes.map((node) => waitOneServing(store, node, deadlineMs)));
}

async function waitOneServing(store: DrillStore, node: string, deadlineMs: number): Promise<void> {
  let seenSeq: number | null = null;
  await waitUntil(`${node} to serve`, deadlineMs, async () => {
    const permit = await readValue<Permit>(store, keys.nodePermit(node));
    const heartbeat = await readValue<Heartbeat>(store, keys.nodeHeartbeat(node));
    if (permit?.state !== 'granted' || heartbeat?.epoch !== permit.epoch || heartbeat.phase !== 'serving') return false;
    // One heartbeat may be an old one: only a second, newer one shows that the guard renews now.
    seenSeq ??= heartbeat.seq;
    return heartbeat.seq > seenSeq && heartbeat.agentSilentMs !== null && heartbeat.agentSilentMs < 5_000;
  });
}
