import { AppError } from '#base/error.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import { toManagerFacts } from '#core/ha/cluster-round/to-manager.ts';
import { admitGuest } from '#core/ha/manager/admission.ts';
import type { GuestFacts } from '#core/ha/manager/facts.ts';
import { compileFor } from '#core/ha/manager/round.ts';
import { readLiveFacts } from '#cli/live-facts.ts';
import type { Session } from '#cli/session.ts';

type Candidate = { vmid: number; name: string; home: string; config: GuestConfig };

/**
 * Refuses to want the guest started when, with it, some guest would have no place after the loss of a node. Room and rules count, not the
 * copies there are: those of a guest that does not run yet come once it does.
 * Raises AppError conflict with the reason.
 */
export async function refuseUnlessItFits(session: Session, guest: Candidate): Promise<void> {
  const live = await readLiveFacts(session);
  // While it is disarmed no node receives guests, whatever room it has.
  if ((live.memory?.value.disarm ?? null) !== null) return;
  const manager = toManagerFacts(live, session.world.nowMs());
  // With a single node there is no loss that anything could survive.
  if (manager.nodes.filter((node) => node.present).length < 2) return;
  const guests = manager.guests.map(withoutCopies);
  const own = guests.find((other) => other.id === String(guest.vmid)) ?? toNewGuest(guest);
  const admission = admitGuest({ nodes: manager.nodes, guests, rules: compileFor(manager) }, own);
  if (admission.kind === 'fits') return;
  throw new AppError(
    'conflict',
    `starting guest ${guest.vmid} ${guest.name}: ${admission.because}; nothing was changed; make room, or add --force to start it all the same`,
  );
}

function withoutCopies({ copies: _copies, ...guest }: GuestFacts): GuestFacts {
  return guest;
}

/** A guest that is about to be made. */
function toNewGuest({ vmid, home, config }: Candidate): GuestFacts {
  return {
    id: String(vmid),
    home,
    want: 'started',
    movesLive: false,
    otherNodeTries: 0,
    failback: true,
    claimed: { cores: config.cores, memoryBytes: config.memoryMb * 2 ** 20 },
    measured: null,
  };
}
