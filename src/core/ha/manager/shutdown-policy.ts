import type { AgentMode } from '#core/ha/manager/facts.ts';

/**
 * What happens to a node's guests when its operating system, or only the agent, is asked to end.
 *
 *   freeze       stop all, nobody recovers them: they wait for the node
 *   failover     stop all, then recover them as if the node had died
 *   conditional  a reboot freezes, a power-off fails over
 *   migrate      move all away first; the shutdown waits for the last one, and they return afterwards
 */
export type ShutdownPolicy = 'conditional' | 'freeze' | 'failover' | 'migrate';

export type EndRequest = 'power-off' | 'reboot' | 'agent-restart';

export type EndPlan = { mode: AgentMode; stopsGuests: boolean; because: string };

/** The agent's mode from the request on. A node that is being drained already is drained to its end, whatever the policy. */
export function planEnd(policy: ShutdownPolicy, request: EndRequest, mode: AgentMode): EndPlan {
  if (request === 'agent-restart')
    return { mode: 'restart', stopsGuests: false, because: 'only the agent restarts: guests run on, frozen' };
  if (mode === 'maintenance') return { mode, stopsGuests: false, because: 'the node is being drained' };
  switch (policy) {
    case 'migrate':
      return { mode: 'maintenance', stopsGuests: false, because: 'policy migrate: guests leave first' };
    case 'freeze':
      return { mode: 'restart', stopsGuests: true, because: 'policy freeze: guests wait for the node' };
    case 'failover':
      return { mode: 'shutdown', stopsGuests: true, because: 'policy failover: guests start elsewhere' };
    case 'conditional':
      return request === 'reboot'
        ? { mode: 'restart', stopsGuests: true, because: 'policy conditional, a reboot: guests wait for the node' }
        : { mode: 'shutdown', stopsGuests: true, because: 'policy conditional, a power-off: guests start elsewhere' };
  }
}
