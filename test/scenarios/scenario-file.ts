import { readFileSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import type { Want } from '#core/ha/manager/facts.ts';
import type { NodeState } from '#core/ha/manager/memory.ts';
import type { Rule } from '#core/ha/manager/rules.ts';
import type { ShutdownPolicy } from '#core/ha/manager/shutdown-policy.ts';

/** The form of a scenario file, as far as a replay needs it. Expectations are read by the comparison only. */
export type ScenarioFile = {
  format: string;
  clock: { step: number; fenceDelay: number; leaseLifetime: number; watchdog: number; scriptStepEvery: number };
  defaults: {
    nodeCores: number;
    nodeMemoryBytes: number;
    workloadCores: number;
    workloadMemoryBytes: number;
    loadCores: number;
    loadMemoryBytes: number;
  };
  scenarios: Scenario[];
  ruleChecks: RuleCheck[];
};

export type Scenario = {
  id: string;
  theme: string;
  portable?: boolean;
  contested?: unknown;
  given: Given;
  script: Action[];
  expected?: Expected;
};

export type ScenarioSize = { cores: number; memoryBytes: number };

type Given = {
  nodes: { name: string; cores?: number; memoryBytes?: number; upWithoutDaemons?: boolean }[];
  settings: {
    onNodeShutdown: ShutdownPolicy;
    placement: 'count' | 'by-size' | 'by-load';
    balanceOnStart: boolean;
    autoRebalance?: { threshold: number; method: 'bruteforce' | 'topsis'; holdRounds: number; minRelativeGain: number };
  };
  workloads: GivenWorkload[];
  rules: ScenarioRule[];
  managerMemory?: {
    nodes: Record<string, NodeState>;
    workloads: Record<string, { state: string; node: string; to?: string }>;
    leader?: string | null;
  };
};

export type WantWord = 'running' | 'stopped' | 'disabled' | 'ignored';

export type GivenWorkload = {
  id: string;
  kind: 'vm' | 'container' | 'stub';
  home: string;
  want: WantWord;
  localRetries?: number;
  otherNodeTries?: number;
  failback?: boolean;
  size?: ScenarioSize;
  load?: ScenarioSize;
  faults?: Faults;
};

export type Faults = {
  startFailures: number;
  moveFailures: number;
  refusesStop: boolean;
  present: boolean;
  onlyOnNode: string | null;
};

type ScenarioRule = {
  id: string;
  workloads: string[];
  enabled: boolean;
  kind: 'prefer-nodes' | 'keep-together' | 'keep-apart';
  hard: boolean;
  nodes?: { node: string; rank: number }[];
};

/** One line of the script. Which fields are there depends on `do`. */
export type Action = { t: number; do: string } & Record<string, unknown>;

export type RuleCheck = { id: string; rules: ScenarioRule[]; nodes: string[]; dropped?: string[]; effective?: unknown };

export type Loss = { t: number; node: string; secondsToStartElsewhere?: Record<string, number> };

type Expected = {
  final: { workloads: Record<string, { node: string | null; state: string | null; runsOn: string | null }> };
  fencedNodes: string[];
  losses: Loss[];
  orderPerWorkload: Record<string, string[]>;
};

/** What a replay answers for one scenario; the form is fixed by the scenarios' own README. */
export type Answer = {
  final: Record<string, { node: string | null; state: string | null; runsOn: string | null }>;
  fencedNodes: string[];
  doubleRun: boolean;
  orderPerWorkload: Record<string, string[]>;
  losses: Loss[];
};

export type Answers = Record<string, Answer | { dropped: string[] }>;

/** Reads a scenario file. Raises AppError invalid when it is of another form. */
export function readScenarioFile(path: string): ScenarioFile {
  const file = JSON.parse(readFileSync(path, 'utf8')) as Omit<ScenarioFile, 'ruleChecks'> & { ruleChecks?: RuleCheck[] };
  if (file.format !== 'ha-scenarios/1')
    throw new AppError('invalid', `reading scenarios from ${path}: format ${JSON.stringify(file.format)} is not ha-scenarios/1`);
  return { ...file, ruleChecks: file.ruleChecks ?? [] };
}

/** The rule in the core's words. */
export function toRule(rule: ScenarioRule): Rule {
  const base = { id: rule.id, enabled: rule.enabled, guests: rule.workloads };
  switch (rule.kind) {
    case 'prefer-nodes':
      return { ...base, kind: 'prefer-nodes', hard: rule.hard, nodes: rule.nodes ?? [] };
    case 'keep-together':
    case 'keep-apart':
      return { ...base, kind: rule.kind };
  }
}

export function toWant(word: WantWord): Want {
  return word === 'running' ? 'started' : word;
}
