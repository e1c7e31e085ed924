/**
 * What the state of the cluster means for the people who depend on it, worst first.
 *
 * - down: somebody cannot work: a wanted guest does not run, or nothing can be decided.
 * - degraded: everything wanted runs, but the next loss would hurt: a node is missing, a copy is late, an agent is silent.
 * - note: nothing is wrong; somebody should look when there is time.
 */
export type Severity = 'down' | 'degraded' | 'note';
export type Finding = { severity: Severity; text: string; next: string };
