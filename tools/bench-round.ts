import { compileRules } from '#core/ha/manager/compiled-rules.ts';
import type { GuestFacts, ManagerFacts, ManagerSettings } from '#core/ha/manager/facts.ts';
import { emptyMemory, type ManagerMemory } from '#core/ha/manager/memory.ts';
import { plainFacts, plainGuest, plainNode, plainSettings } from '#core/ha/manager/round-cluster.ts';
import { planRound } from '#core/ha/manager/round.ts';
import type { Rule } from '#core/ha/manager/rules.ts';

/**
 * CPU time of one manager round: 32 nodes, a growing number of guests, in the situations that cost most. Method: process CPU time
 * around `planRound` alone, facts and compiled rules at hand; one run to warm up, then `runs` runs; all figures are printed.
 */
const nodeCount = 32;
const guestCounts = [1_250, 2_500, 5_000, 10_000];
const runs = 7;
/** Goal for one round of the largest cluster. */
const goalMs = 100;

const nodeNames = Array.from({ length: nodeCount }, (_, index) => `node${String(index + 1).padStart(2, '0')}`);

function buildGuests(count: number): GuestFacts[] {
  return Array.from({ length: count }, (_, index) => {
    // Sizes of every kind, spread unevenly, from the index alone: each run measures the same cluster.
    const memoryBytes = (1 + ((index * 7) % 13)) * 2 ** 28;
    const cores = 1 + ((index * 5) % 4);
    const measured = { cores: cores * (0.1 + ((index * 31) % 80) / 100), memoryBytes: Math.round(memoryBytes * 0.6) + index };
    const home = nodeNames[(index * index) % nodeCount] ?? 'node01';
    return plainGuest(String(100 + index), home, { claimed: { cores, memoryBytes }, measured });
  });
}

/** One guest in five is under a rule: pairs apart, triples together, a preferred node. */
function buildRules(guests: GuestFacts[]): Rule[] {
  const rules: Rule[] = [];
  for (let index = 0; index + 20 < guests.length; index += 30) {
    const ids = guests.slice(index, index + 6).map((guest) => guest.id);
    rules.push({ id: `apart-${index}`, enabled: true, kind: 'keep-apart', guests: ids.slice(0, 2) });
    rules.push({ id: `together-${index}`, enabled: true, kind: 'keep-together', guests: ids.slice(2, 5) });
    const home = guests[index + 5]?.home ?? 'node01';
    rules.push({
      id: `prefer-${index}`,
      enabled: true,
      kind: 'prefer-nodes',
      hard: false,
      guests: ids.slice(5),
      nodes: [{ node: home, rank: 1 }],
    });
  }
  return rules;
}

type Case = { name: string; facts: ManagerFacts; memory: ManagerMemory };

function buildCases(count: number): { cases: Case[]; rules: ReturnType<typeof compileRules> } {
  const guests = buildGuests(count);
  const rules = buildRules(guests);
  const compiled = compileRules(rules, nodeNames);
  const nodes = nodeNames.map((name) => plainNode(name, { size: { cores: 128, memoryBytes: 2 ** 43 } }));
  const settings: ManagerSettings = { ...plainSettings, placement: 'by-load', memoryMustFit: true, standingOrders: true };
  const facts = plainFacts({ self: 'node01', nodes, guests, rules, settings });
  const adopted = planRound(facts, emptyMemory(), compiled).memory;
  const [quietFacts, quiet] = settle(facts, adopted, compiled);
  const lost = nodes.map((node) =>
    node.name === 'node07' ? { ...node, present: false, lostMs: 60_000, permit: 'claimable' as const } : node,
  );
  const autoRebalance = { threshold: 0, method: 'bruteforce', holdRounds: 1, minRelativeGain: 0 } as const;
  return {
    rules: compiled,
    cases: [
      { name: 'a quiet round', facts: quietFacts, memory: quiet },
      { name: 'a node of 32 lost, its guests recovered', facts: { ...quietFacts, nodes: lost }, memory: quiet },
      { name: 'rebalance, brute force', facts: { ...quietFacts, settings: { ...settings, autoRebalance } }, memory: quiet },
      {
        name: 'rebalance, TOPSIS',
        facts: { ...quietFacts, settings: { ...settings, autoRebalance: { ...autoRebalance, method: 'topsis' } } },
        memory: quiet,
      },
      { name: 'the first round: all adopted', facts, memory: emptyMemory() },
    ],
  };
}

/** Lets every move end well until nothing moves: the guests are where the rules want them, and run. */
function settle(
  facts: ManagerFacts,
  memory: ManagerMemory,
  rules: ReturnType<typeof compileRules>,
): [ManagerFacts, ManagerMemory] {
  let [at, now] = [facts, memory];
  for (let round = 0; round < 10; round += 1) {
    const results = new Map([...now.guests.values()].map((entry) => [entry.orderId, 'ok'] as const));
    const entries = now.guests;
    const guests = at.guests.map((guest) => {
      const state = entries.get(guest.id)?.state;
      return state?.kind === 'moving-live' ? { ...guest, home: state.to } : guest;
    });
    at = { ...facts, guests, results };
    now = planRound(at, now, rules).memory;
  }
  return [at, now];
}

function measureMs(run: () => void): number {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

function main(): void {
  process.stdout.write(`${nodeCount} nodes, process CPU in ms for one round, ${runs} runs each\n`);
  let worst = 0;
  for (const count of guestCounts) {
    const { cases, rules } = buildCases(count);
    for (const { name, facts, memory } of cases) {
      planRound(facts, memory, rules);
      const figures = Array.from({ length: runs }, () => measureMs(() => planRound(facts, memory, rules)));
      const median = figures.toSorted((a, b) => a - b)[Math.floor(runs / 2)] ?? NaN;
      if (count === guestCounts.at(-1)) worst = Math.max(worst, median);
      const raw = figures.map((figure) => figure.toFixed(1)).join(' ');
      process.stdout.write(
        `${String(count).padStart(6)} guests  ${name.padEnd(42)} median ${median.toFixed(1).padStart(6)}   ${raw}\n`,
      );
    }
  }
  process.stdout.write(`slowest median of the largest cluster: ${worst.toFixed(1)} ms; goal: under ${goalMs} ms\n`);
  process.exitCode = worst < goalMs ? 0 : 1;
}

main();
