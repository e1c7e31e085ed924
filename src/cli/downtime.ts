import { limits } from '#base/limits.ts';
import { suspectAfterMs } from '#core/ha/claim.ts';
import type { ClusterFacts, GuestRecordFacts } from '#core/ha/cluster-round/facts.ts';
import { formatDuration } from '#core/text/duration.ts';

/** From the loss of a guest's node until its QEMU runs elsewhere; the guest's own boot comes on top. */
export type Downtime = {
  /** Until the node is claimed because it is silent: always true at the latest. */
  silenceMs: number;
  /** Until it is claimed because its controller says that it is off; null: it has no controller. */
  powerOffMs: number | null;
  /** How long the guest's last start took; null: not known. */
  startMs: number | null;
};

/** What to expect when `node` is lost in this instant, with all of `lost`. */
export function expectDowntime(
  facts: ClusterFacts,
  { record, status }: GuestRecordFacts,
  node: string,
  lost: readonly string[],
): Downtime {
  const found = facts.nodes.find((entry) => entry.name === node);
  const permit = found?.permit?.value;
  const startMs = status?.startTookMs ?? null;
  if (record.givenUp !== undefined || permit?.state !== 'granted') return { silenceMs: 0, powerOffMs: null, startMs };
  // Another node leads first: its timers are warm, so that only a claim quicker than that has to wait for it.
  const leadMs = lost.includes(facts.self) ? 5 * facts.timing.renewMs : 0;
  const readMs = Math.max(suspectAfterMs(facts.timing), leadMs) + facts.readsApartMs;
  return {
    silenceMs: Math.max(facts.timing.claimMs, permit.claimMs, leadMs) + limits.managerRoundMs,
    powerOffMs: found?.controller === null ? null : readMs + limits.managerRoundMs,
    startMs,
  };
}

/** `16 s`, with a controller `4.0 to 16 s`; without a known start `16 s + its start`. */
export function formatDowntime({ silenceMs, powerOffMs, startMs }: Downtime): string {
  const most = formatDuration(silenceMs + (startMs ?? 0));
  const least = powerOffMs === null ? '' : `${formatDuration(powerOffMs + (startMs ?? 0))} to `;
  return `${least}${most}${startMs === null ? ' + its start' : ''}`;
}
