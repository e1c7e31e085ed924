import { limits } from '#base/limits.ts';
import { copyFactsOf, isWorthAWait, listUnfit } from '#core/ha/cluster-round/copies.ts';
import type { ClusterFacts, GuestRecordFacts, NodeRecordFacts } from '#core/ha/cluster-round/facts.ts';
import { agentModeOf, grantedEpoch, isFresh, whyUnusable } from '#core/ha/cluster-round/node-health.ts';
import { orderResult, runsAtHome } from '#core/ha/cluster-round/order-results.ts';
import { listClaims } from '#core/ha/guard-store.ts';
import { resourceWithDefaults, withDefaults } from '#core/ha/ha-settings.ts';
import type { GuestFacts, ManagerFacts, NodeFacts, OrderResult, Size } from '#core/ha/manager/facts.ts';

/**
 * The facts of a round in the words of core/ha/manager: what is proven of a node, where a guest's data lies, how its order ended. Nothing
 * is decided here.
 */
export function toManagerFacts(facts: ClusterFacts, nowWallMs: number): ManagerFacts {
  const nodes = new Map(facts.nodes.map((node) => [node.name, node]));
  const settings = withDefaults(facts.settings);
  const results = new Map<number, OrderResult>();
  for (const guest of facts.guests) {
    const result = orderResult(facts, guest, nodes);
    if (result !== null && guest.record.ha !== undefined) results.set(guest.record.ha.orderId, result);
  }
  return {
    self: facts.self,
    nowMs: nowWallMs,
    isCurrent: facts.isCurrent ?? true,
    nodes: facts.nodes.map((node) => ({
      ...toNode(facts, node),
      ...claimOf(node),
    })),
    guests: facts.guests.flatMap((guest) => (guest.resource === null ? [] : [toGuest(guest, nodes, nowWallMs)])),
    rules: facts.rules,
    commands: facts.commands.filter((entry) => entry.value.state === 'waiting').map((entry) => entry.value.command),
    results,
    settings: {
      placement: settings.placement,
      balanceOnStart: settings.balanceOnStart,
      autoRebalance: facts.balances ? settings.autoRebalance : null,
      fenceAfterMs: facts.timing.claimMs,
      memoryMustFit: true,
      standingOrders: true,
      refusesForbiddenMoves: true,
      startsAfterWaitMs: limits.startsAfterWaitMs,
      moveRetryMs: limits.moveRetryMs,
      avoidFailedMs: limits.avoidFailedMs,
      quarantineAfter: settings.quarantineAfter,
      quarantineWindowMs: settings.quarantineWindowMs,
    },
  };
}

function toNode(facts: ClusterFacts, node: NodeRecordFacts): NodeFacts {
  const epoch = grantedEpoch(node);
  const silentMs = node.silence.kind === 'counted' ? node.silence.silentMs : 0;
  return {
    name: node.name,
    present: epoch !== null && isFresh(facts, node),
    lostMs: epoch === null ? Number.POSITIVE_INFINITY : isFresh(facts, node) ? 0 : silentMs,
    agentMode: agentModeOf(node, facts.memory?.value.drains ?? []),
    permit: epoch === null ? 'claimed' : 'held',
    // A permit is revoked on a proof only, and each of them says that nothing runs there any more, guarded or not.
    confirmedOff: epoch === null,
    watchdogOpen: node.heartbeat !== null && node.heartbeat.value.phase !== 'disarmed',
    size: { cores: node.info?.cores ?? 0, memoryBytes: (node.info?.memoryMb ?? 0) * 2 ** 20 },
    refusal: whyUnusable(facts, node),
  };
}

/** The claims that stand in the record. One that is only planned may come to nothing, and would hide the one that ends the same epoch later. */
function claimOf(node: NodeRecordFacts): Pick<NodeFacts, 'claimedAtMs' | 'claimedEpoch' | 'earlierClaims'> {
  const permit = node.permit?.value;
  const claims = permit === undefined ? [] : listClaims(permit);
  const newest = claims.at(-1);
  return { claimedAtMs: newest?.atMs ?? null, claimedEpoch: newest?.epoch ?? null, earlierClaims: claims.slice(0, -1) };
}

function toGuest(facts: GuestRecordFacts, nodes: ReadonlyMap<string, NodeRecordFacts>, nowWallMs: number): GuestFacts {
  const { record } = facts;
  const resource = resourceWithDefaults(record.vmid, facts.resource);
  return {
    id: String(record.vmid),
    home: record.home,
    want: resource.want,
    // A running guest is handed over by a stop here and a start there.
    movesLive: false,
    otherNodeTries: resource.otherNodeTries,
    failback: resource.failback,
    claimed: { cores: record.config.cores, memoryBytes: record.config.memoryMb * 2 ** 20 },
    measured: measuredOf(facts, nodes.get(record.home)),
    copies: copyFactsOf(facts, nodes.get(record.home), nowWallMs),
    unfitNodes: listUnfit(facts),
    maxDataAgeMs: resource.maxDataAgeMs,
    betterCopyWaitMs: Math.max(
      resource.betterCopyWaitMs,
      isWorthAWait(facts, nodes.get(record.home)) ? limits.homeReturnWaitMs : 0,
    ),
    startOrder: resource.startOrder,
    startsAfter: resource.startsAfter.map(String),
    orderOver: isOrderOver(facts, nodes.get(record.home)),
    givenUp: isGivenUp(facts),
    runs: runsAtHome(facts, nodes.get(record.home)),
  };
}

/** Nothing on its home can start it under the order it has: there is none, or its epoch is over. */
function isOrderOver({ record }: GuestRecordFacts, home: NodeRecordFacts | undefined): boolean {
  return record.order === null || record.order.nodeEpoch !== grantedEpoch(home);
}

/** The home let go of it while alive: it has handed its disks over, or its copy is unfit to start from. */
function isGivenUp({ record }: GuestRecordFacts): boolean {
  if (record.order !== null) return false;
  if (record.declined?.at(-1)?.node === record.home) return true;
  return record.givenUp !== undefined && record.givenUp.orderId !== record.ha?.orderId;
}

/** What it was last seen to use on its home; null: its home has said nothing of it, or is not seen. */
function measuredOf({ record }: GuestRecordFacts, home: NodeRecordFacts | undefined): Size | null {
  if (home === undefined || home.silence.kind !== 'counted') return null;
  const use = home.load?.guests.find((guest) => guest.vmid === record.vmid);
  return use === undefined ? null : { cores: use.cores, memoryBytes: use.memoryBytes };
}
