/** The invariants of the fault model, which of them a run checks and how; what has no feature to check yet says so. */
export const invariants: { name: string; text: string; checked: string | null }[] = [
  { name: 'S1', text: 'no guest executes on two nodes at one instant', checked: 'true time, after every event' },
  {
    name: 'S2',
    text: 'a guest executes only under the epoch and generation that the store grants',
    checked: 'after every event',
  },
  { name: 'S3', text: 'takeover only after proof', checked: 'each revocation and each change of home' },
  {
    name: 'S4',
    text: 'no acknowledged change or command is lost or taken twice',
    checked: 'each write of a guest record, each command',
  },
  { name: 'S5', text: 'one effective leader', checked: 'each write of a manager, against the lead in the store' },
  {
    name: 'S6',
    text: 'a copy is a point of the one history and never goes back',
    checked: 'each commit of a manifest, block for block',
  },
  { name: 'S7', text: 'no write before a fence is lost', checked: 'each commit of a manifest, block for block' },
  { name: 'S8', text: 'a stale sender changes nothing', checked: 'each sealed point' },
  { name: 'S9', text: 'the common base is never pruned', checked: 'each thinning' },
  { name: 'S10', text: 'starts and placements obey the rules', checked: 'each new home, each start' },
  { name: 'S11', text: 'what is not wanted started is never started', checked: 'each order and each start' },
  { name: 'S12', text: 'failed is never left by itself', checked: 'each write of a guest record' },
  { name: 'S13', text: 'a move ends with one owner', checked: 'each hand-over, block for block' },
  {
    name: 'S14',
    text: 'the watchdog is open, and petted only after a renewal in the store',
    checked: 'each pet, after every event',
  },
  { name: 'S15', text: 'no hold or drain leaves a wanted guest down that could run', checked: 'disarm rounds, healed rounds' },
  { name: 'S16', text: 'what is told of guests is so', checked: 'each status, request and command that is told' },
  {
    name: 'L1',
    text: 'recovery within D + 10 s; after chaos everything that can run runs',
    checked: 'plug rounds, healed rounds',
  },
  { name: 'L2', text: 'a clean release within 5 s', checked: 'release rounds' },
  { name: 'L3', text: 'a quiet cluster fences nothing', checked: 'with --quiet' },
  { name: 'L4', text: 'no placement oscillation', checked: 'each move without a cause, with --quiet' },
  { name: 'L5', text: 'every state leaves', checked: 'guards and agents, healed rounds' },
  { name: 'L6', text: 'the copies of a returned node become current', checked: 'healed rounds' },
  { name: 'L7', text: 'a flapping node is quarantined', checked: 'flap rounds, each placement' },
  { name: 'L8', text: 'all nodes lost and back: within boot + D + 30 s', checked: 'all-off rounds' },
  { name: 'L9', text: 'replication lag returns', checked: 'healed rounds' },
  { name: 'L10', text: 'no target: a named reason', checked: 'healed rounds' },
];

/** One line for people: what a run checks, and what has no feature yet. */
export function describeCoverage(): string {
  const [checked, missing] = [true, false].map((is) =>
    invariants.filter((entry) => (entry.checked !== null) === is).map((entry) => entry.name),
  );
  const left =
    missing === undefined || missing.length === 0 ? '' : `; not checked, for there is no such feature yet: ${missing.join(' ')}`;
  return `checked: ${checked?.join(' ')}${left}`;
}
