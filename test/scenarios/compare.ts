import { isDeepStrictEqual } from 'node:util';
import type { Answer, Answers, Scenario, ScenarioFile } from './scenario-file.ts';

/** How one answer stands beside the recording. Empty lists are passes. */
export type Comparison = { id: string; theme: string; must: string[]; order: string[]; time: string[]; counts: boolean };

/** Compares every scenario that has an expectation, by the scoring that the scenarios' README states. */
export function compareScenarios(file: ScenarioFile, answers: Answers): Comparison[] {
  return file.scenarios
    .filter((scenario) => scenario.expected !== undefined)
    .map((scenario) => {
      const given = answers[scenario.id];
      const counts = scenario.portable !== false && scenario.contested === undefined;
      const base = { id: scenario.id, theme: scenario.theme, counts };
      if (given === undefined || 'dropped' in given) return { ...base, must: ['no answer'], order: ['no answer'], time: [] };
      return {
        ...base,
        must: compareMust(scenario, given),
        order: compareOrder(scenario, given),
        time: compareTime(scenario, given),
      };
    });
}

function compareMust({ expected }: Scenario, given: Answer): string[] {
  const wrong: string[] = given.doubleRun ? ['a workload ran on two nodes'] : [];
  for (const [id, { node, state, runsOn }] of Object.entries(expected?.final.workloads ?? {})) {
    const ours = given.final[id];
    if (!isDeepStrictEqual(ours, { node, state, runsOn }))
      wrong.push(`${id}: ${JSON.stringify(ours)}, recorded ${JSON.stringify({ node, state, runsOn })}`);
  }
  const fenced = [...new Set(given.fencedNodes)].sort();
  const recorded = [...new Set(expected?.fencedNodes ?? [])].sort();
  if (!isDeepStrictEqual(fenced, recorded)) wrong.push(`fenced ${fenced.join(', ')}, recorded ${recorded.join(', ')}`);
  return wrong;
}

function compareOrder({ expected }: Scenario, given: Answer): string[] {
  const recorded = expected?.orderPerWorkload ?? {};
  return [...new Set([...Object.keys(recorded), ...Object.keys(given.orderPerWorkload)])]
    .filter((id) => !isDeepStrictEqual(recorded[id], given.orderPerWorkload[id]))
    .map((id) => `${id}: ${given.orderPerWorkload[id]?.join(' ')}, recorded ${recorded[id]?.join(' ')}`);
}

function compareTime({ expected }: Scenario, given: Answer): string[] {
  return (expected?.losses ?? []).flatMap((loss) => {
    const ours = given.losses.find((entry) => entry.t === loss.t && entry.node === loss.node);
    return Object.entries(loss.secondsToStartElsewhere ?? {}).flatMap(([id, seconds]) => {
      const our = ours?.secondsToStartElsewhere?.[id];
      return our !== undefined && our <= seconds ? [] : [`${id}: ${our} s after the loss of ${loss.node}, recorded ${seconds} s`];
    });
  });
}
