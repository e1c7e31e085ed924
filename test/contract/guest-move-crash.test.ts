import { test } from 'node:test';
import { keys } from '#core/ha/keys.ts';
import type { RunningGuest } from '#ports/hypervisor.ts';
import { type AgentEdge, buildAgentRig, changeGuests, hangAfter } from './checker/agent-rig.ts';
import { runOnN1, takeOver, vmid } from './checker/moved-guest.ts';

/** Where the agent dies in the course of a move: after this step is done, before it knows. */
const crashes: Record<string, (edge: AgentEdge, dies: () => void) => AgentEdge> = {
  'the copy made while it runs': (edge, dies) => ({ ...edge, replication: hangAfter(edge.replication, 'syncNow', dies) }),
  'the end of its cycles': (edge, dies) => ({ ...edge, replication: hangAfter(edge.replication, 'stopGuest', dies) }),
  'the request to power down': (edge, dies) => ({
    ...edge,
    hypervisor: changeGuests(edge.hypervisor, (guest) => cutInHalt(guest, dies)),
  }),
  'its power-down': (edge, dies) => ({
    ...edge,
    hypervisor: changeGuests(edge.hypervisor, (guest) => hangAfter(guest, 'halt', dies)),
  }),
  'its last point': (edge, dies) => ({ ...edge, replication: hangAfter(edge.replication, 'sendLast', dies) }),
  'the end of QEMU': (edge, dies) => ({
    ...edge,
    hypervisor: changeGuests(edge.hypervisor, (guest) => hangAfter(guest, 'end', dies)),
  }),
  'the note in the manifest': (edge, dies) => ({ ...edge, storage: hangAfter(edge.storage, 'noteHandedOver', dies) }),
  'the commit that gives it up': (edge, dies) => ({ ...edge, store: hangAfterGivingUp(edge.store, dies) }),
};

function cutInHalt(guest: RunningGuest, dies: () => void): RunningGuest {
  return {
    ...guest,
    halt: (options) => {
      guest.halt(options).catch(() => {}); // its connection is cut under it
      setTimeout(dies, 30);
      return new Promise<never>(() => {});
    },
  };
}

function hangAfterGivingUp(store: AgentEdge['store'], dies: () => void): AgentEdge['store'] {
  return {
    ...store,
    commit: async (compares, writes, options) => {
      const outcome = await store.commit(compares, writes, options);
      if (!writes.some(({ key, value }) => key === keys.guest(vmid) && value?.includes('givenUp') === true)) return outcome;
      dies();
      return await new Promise<never>(() => {});
    },
  };
}

for (const [what, cut] of Object.entries(crashes)) {
  test(`a move goes on when the agent dies after ${what}`, async (t) => {
    const rig = await buildAgentRig(t, ['n1', 'n2']);
    const died = Promise.withResolvers<void>();
    const first = rig.startAgent('n1', (edge) => cut(edge, () => died.resolve()));
    await runOnN1(rig);
    await rig.order(vmid, { kind: 'move', to: 'n2', promote: null });
    await died.promise;
    await first.crash();
    rig.startAgent('n1');
    await rig.givenUp(vmid);
    rig.startAgent('n2');
    await takeOver(rig);
  });
}
