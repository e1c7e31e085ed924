/** The invariants of the fault model, what each of them says, and where a run holds the truth against it. */
export const invariants: { name: string; text: string; checked: string }[] = [
  {
    name: 'S1',
    text: 'no guest executes on two nodes at one instant',
    checked: 'true time, after every event that may change it',
  },
  {
    name: 'S2',
    text: 'a guest executes only under the epoch and generation that the store grants',
    checked: 'after every event that may change it',
  },
  { name: 'S3', text: 'takeover only after proof', checked: 'each revocation and each change of home' },
  {
    name: 'S4',
    text: 'no acknowledged change or command is lost or applied twice',
    checked: 'each write of a guest, a wish, a command and the memory; an answer comes in the commit of its effect',
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
  {
    name: 'S10',
    text: 'keep-apart and hard rules hold for every start; a running pair that breaks a new one is moved, never stopped',
    checked: 'each placement by the rules it was planned with, each start beside who runs there, each stop',
  },
  { name: 'S11', text: 'what is not wanted started is never started', checked: 'each order and each start' },
  { name: 'S12', text: 'failed is left by disabled only', checked: 'each change of a state, each start' },
  {
    name: 'S13',
    text: 'a move ends with one owner, and nothing is lost',
    checked: 'each giving up, each promotion block for block, each start',
  },
  {
    name: 'S14',
    text: 'the watchdog is open, and petted only after a renewal in the store',
    checked: 'each pet, after every event; not of a node whose newest heartbeat says disarmed',
  },
  {
    name: 'S15',
    text: 'no hold or drain leaves a wanted guest down that could run, except the stated hold',
    checked: 'the instant a disarm comes into force, each freezing, disarm rounds, healed rounds with drains',
  },
  {
    name: 'S16',
    text: 'reports tell what happened',
    checked: 'each status when it is told, each event with its commit, what status shows after each healing',
  },
  {
    name: 'L1',
    text: 'recovery within D + 10 s; after chaos everything that can run runs',
    checked: 'plug rounds, healed rounds',
  },
  { name: 'L2', text: 'a clean release within 5 s', checked: 'release rounds' },
  { name: 'L3', text: 'a quiet cluster fences nothing', checked: 'calm rounds, and with --quiet' },
  {
    name: 'L4',
    text: 'at most one automatic move a guest and hour without a change of what is decided by',
    checked: 'each move that nobody asked for; with --quiet nothing moves',
  },
  {
    name: 'L5',
    text: 'every state leaves, or people are told',
    checked: 'guards, agents and guests in healed rounds, ends of nodes, disarms',
  },
  { name: 'L6', text: 'the copies of a returned node become current', checked: 'healed rounds' },
  { name: 'L7', text: 'a node that flaps is quarantined', checked: 'each placement, flap rounds' },
  { name: 'L8', text: 'all nodes lost and back: within boot + D + 30 s', checked: 'all-off rounds' },
  { name: 'L9', text: 'replication lag returns', checked: 'healed rounds' },
  { name: 'L10', text: 'no target: a named reason', checked: 'healed rounds' },
];

/** One line for people: what a run checks. */
export function describeCoverage(): string {
  return `checked: ${invariants.map(({ name }) => name).join(' ')}`;
}
