import type { GuestOrder } from '#core/guest/guest-record.ts';

/** Why the order does not bind this node now; null: it does. */
export function whyInvalid(facts: { epoch: number | null }, order: GuestOrder): string | null {
  if (facts.epoch === null) return 'this node has no permit to run guests at the moment';
  if (order.nodeEpoch === facts.epoch) return null;
  return `the order is for epoch ${order.nodeEpoch}, this node is at ${facts.epoch}`;
}
