/** What the commands for pools do on this machine; a pool belongs to it alone, the cluster is not asked. */
export type PoolTools = Pick<
  typeof import('#adapters/zfs/pools.ts'),
  'readDisks' | 'readPoolFacts' | 'readPools' | 'makePool' | 'takeInPool' | 'exchangeDisk' | 'scrubPool' | 'clearPoolErrors'
>;

/** Loaded only when asked for. */
export async function loadPools(): Promise<PoolTools> {
  return await import('#adapters/zfs/pools.ts');
}
