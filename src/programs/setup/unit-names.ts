/** Our units (packaging/systemd). */
export const units = {
  etcd: 'holdfast-etcd.service',
  guard: 'holdfast-guard.service',
  guests: 'holdfast-guests.service',
  relay: 'holdfast-relay.service',
  agent: 'holdfast-agent.service',
  nodeEnd: 'holdfast-node-end.service',
} as const;

/** In the order in which they need each other; the store before all of them. */
export const programUnits = [units.guard, units.guests, units.relay, units.agent, units.nodeEnd] as const;
