import { keys, prefixes } from '#core/ha/keys.ts';
import { type LeadTiming, planLead } from '#core/ha/lead.ts';
import { type Observer, silenceOf } from '#core/ha/observer.ts';
import type { HaEvent, Heartbeat, ManagerRecord, Permit } from '#core/ha/records.ts';
import type { Compare, Store, Write } from '#ports/store.ts';
import { suspectAfterMs } from '#core/ha/claim.ts';
import type { World } from '#programs/agent/world.ts';

/** The lead as held by this process: its epoch and the revision that every write of a manager compares. */
export type Lead = { epoch: number; compare: Compare };

export type LeadOptions = {
  self: string;
  store: Store;
  world: World;
  timing: LeadTiming & { softMs: number; claimMs: number };
  /** How long this process has known the present record of the lead. */
  recordKnownMs: number;
  newEvent: (event: Omit<HaEvent, 'id' | 'atMs'>) => { event: HaEvent; write: Write };
};

/** Looks who leads and tries to take the lead when the rules say so. Returns this process's lead, or null. */
export async function holdLead(
  options: LeadOptions,
  own: Lead | null,
  observer: Observer,
  nowBootMs: number,
): Promise<Lead | null> {
  const { world, self } = options;
  // The view has not caught up with this process's own takeover yet.
  if (own !== null && world.revision() < own.compare.modRevision) return own;
  const record = world.read<ManagerRecord>(keys.manager);
  const leaderNode = record?.value.node ?? null;
  const decision = planLead(
    {
      self,
      ownEpoch: own?.epoch ?? null,
      record: record?.value ?? null,
      leader:
        leaderNode === null
          ? null
          : {
              permit: world.read<Permit>(keys.nodePermit(leaderNode))?.value ?? null,
              heartbeat: world.read<Heartbeat>(keys.nodeHeartbeat(leaderNode))?.value ?? null,
              silence: silenceOf(observer, leaderNode, nowBootMs),
            },
      freshNodes: listFreshNodes(options, observer, nowBootMs),
      ownSilence: silenceOf(observer, self, nowBootMs),
      recordKnownMs: options.recordKnownMs,
    },
    options.timing,
  );
  if (decision.kind === 'lead') return own;
  if (decision.kind === 'follow') return null;
  const next: ManagerRecord = { node: self, epoch: decision.epoch, sinceAtMs: Date.now() };
  const { write } = options.newEvent({
    kind: 'took-lead',
    node: self,
    vmid: null,
    managerEpoch: decision.epoch,
    text: `${self} leads under epoch ${decision.epoch}: ${decision.because}`,
    proof: null,
  });
  const outcome = await options.store.commit(
    [{ key: keys.manager, modRevision: record?.modRevision ?? 0n }],
    [{ key: keys.manager, value: JSON.stringify(next) }, write],
  );
  if (outcome.kind !== 'committed') return null;
  return { epoch: decision.epoch, compare: { key: keys.manager, modRevision: outcome.revision } };
}

function listFreshNodes(options: LeadOptions, observer: Observer, nowBootMs: number): string[] {
  return options.world
    .list(prefixes.nodes)
    .filter((entry) => entry.key.endsWith('/heartbeat'))
    .map((entry) => entry.key.slice(prefixes.nodes.length).split('/')[0] ?? '')
    .filter((name) => {
      const silence = silenceOf(observer, name, nowBootMs);
      return silence.kind === 'counted' && silence.silentMs < suspectAfterMs(options.timing);
    })
    .sort();
}
