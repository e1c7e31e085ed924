/** The invariants of the fault model, which of them a run checks and how; what has no feature to check yet says so. */
export const invariants: { name: string; text: string; checked: string | null }[] = [
  { name: 'S1', text: 'no guest executes on two nodes at one instant', checked: 'true time, after every event' },
  {
    name: 'S2',
    text: 'a guest executes only under the epoch and generation that the store grants',
    checked: 'after every event',
  },
  { name: 'S3', text: 'takeover only after proof', checked: 'each revocation and each change of home' },
  { name: 'S4', text: 'no acknowledged change of a configuration is lost', checked: 'each write of a guest record' },
  { name: 'S5', text: 'one effective leader', checked: 'each write of a manager, against the lead in the store' },
  {
    name: 'S6',
    text: 'a copy is a point of the one history and never goes back',
    checked: 'each commit of a manifest, block for block',
  },
  { name: 'S7', text: 'no write before a fence is lost', checked: 'each commit of a manifest, block for block' },
  { name: 'S8', text: 'a stale sender changes nothing', checked: 'each sealed point' },
  { name: 'S9', text: 'the common base is never pruned', checked: 'each thinning' },
  { name: 'S10', text: 'placement rules', checked: null },
  { name: 'S11', text: 'what is not wanted started is never started', checked: 'each order and each start' },
  { name: 'S12', text: 'failed is never left by itself', checked: null },
  { name: 'S13', text: 'a move ends with one owner', checked: null },
  {
    name: 'S14',
    text: 'the watchdog is open, and petted only after a renewal in the store',
    checked: 'each pet, after every event',
  },
  { name: 'S15', text: 'hold and drain', checked: null },
  { name: 'S16', text: 'drill reports', checked: null },
  {
    name: 'L1',
    text: 'recovery within D + 10 s; after chaos everything that can run runs',
    checked: 'plug rounds, healed rounds',
  },
  { name: 'L2', text: 'a clean release within 5 s', checked: 'release rounds' },
  { name: 'L3', text: 'a quiet cluster fences nothing', checked: 'with --quiet' },
  { name: 'L4', text: 'no placement oscillation', checked: 'with --quiet' },
  { name: 'L5', text: 'every state leaves', checked: 'guards and agents, healed rounds' },
  { name: 'L6', text: 'the copies of a returned node become current', checked: 'healed rounds' },
  { name: 'L7', text: 'quarantine of a flapping node', checked: null },
  { name: 'L8', text: 'all nodes lost and back: within boot + D + 30 s', checked: 'all-off rounds' },
  { name: 'L9', text: 'replication lag returns', checked: 'healed rounds' },
  { name: 'L10', text: 'no target: a named reason', checked: 'healed rounds' },
];

/** One line for people: what a run checks, and what has no feature yet. */
export function describeCoverage(): string {
  const [checked, missing] = [true, false].map((is) =>
    invariants.filter((entry) => (entry.checked !== null) === is).map((entry) => entry.name),
  );
  return `checked: ${checked?.join(' ')}; not checked, for there is no such feature yet: ${missing?.join(' ')}`;
}
