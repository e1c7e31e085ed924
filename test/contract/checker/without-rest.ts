import type { WithRest } from '#programs/replication/point-rest.ts';

/** For guests that have no agent inside. */
export const withRest: WithRest = async (_guest, work) => ({ result: await work(), isRested: false, because: 'no agent' });
