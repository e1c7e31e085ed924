import { keys as coreKeys, wakesLoops as wakesLoopsReally } from '#core/ha/keys.ts';

/** The keys of the record, each made once: a simulated hour looks millions of them up, and a new text has to be hashed each time. */
export const keys = {
  ...coreKeys,
  nodeInfo: remember(coreKeys.nodeInfo),
  nodePermit: remember(coreKeys.nodePermit),
  nodeRelease: remember(coreKeys.nodeRelease),
  nodeHeartbeat: remember(coreKeys.nodeHeartbeat),
  nodeAgent: remember(coreKeys.nodeAgent),
  nodeDisarm: remember(coreKeys.nodeDisarm),
  guest: remember(coreKeys.guest),
  guestTombstone: remember(coreKeys.guestTombstone),
  haResource: remember(coreKeys.haResource),
  haStatus: remember(coreKeys.haStatus),
} as const;

const heartbeatOf = new Map<string, string | null>();

/** The node whose heartbeat lies at `key`; null: another kind of fact lies there. */
export function nodeOfHeartbeat(key: string): string | null {
  const known = heartbeatOf.get(key);
  if (known !== undefined) return known;
  const match = /\/nodes\/([^/]+)\/heartbeat$/.exec(key);
  const node = match?.[1] ?? null;
  heartbeatOf.set(key, node);
  return node;
}

const wakes = new Map<string, boolean>();

/** As core/ha/keys.ts has it. */
export function wakesLoops(key: string): boolean {
  const known = wakes.get(key);
  if (known !== undefined) return known;
  const is = wakesLoopsReally(key);
  wakes.set(key, is);
  return is;
}

function remember<T extends string | number>(make: (name: T) => string): (name: T) => string {
  const made = new Map<T, string>();
  return (name) => {
    let key = made.get(name);
    if (key === undefined) {
      key = make(name);
      made.set(name, key);
    }
    return key;
  };
}
