import { AppError } from '#base/error.ts';

/** How many periods of each kind keep a snapshot; null: the rule is not given. */
export type KeepRules = Record<KeepRule, number | null>;
export type KeepRule = 'last' | 'hourly' | 'daily' | 'weekly' | 'monthly' | 'yearly';
export const keepRules: readonly KeepRule[] = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'];

/** A snapshot as retention sees it. `isLocked`: it may not go before a date that has not come. */
export type PruneCandidate = { atSeconds: number; isFinished: boolean; isProtected: boolean; isLocked: boolean };

/** `mark`: why it stays, or `remove`. */
export type PruneMark = 'keep' | 'keep-partial' | 'protected' | 'locked' | 'remove';
export type PruneVerdict<Snapshot> = { snapshot: Snapshot; mark: PruneMark; rule: KeepRule | null };

/** The calendar of the place where the server stands. `month` and `day` from 1. */
export type LocalTime = { year: number; month: number; day: number; hour: number };

/**
 * Decides which snapshots of one group stay. Newest first in the answer. Nothing is removed when no rule keeps anything at all.
 * `toLocal` turns seconds since 1970 into the server's local time.
 */
export function planPrune<Snapshot extends PruneCandidate>(
  snapshots: readonly Snapshot[],
  rules: KeepRules,
  toLocal: (atSeconds: number) => LocalTime,
): PruneVerdict<Snapshot>[] {
  const newestFirst = snapshots.toSorted((a, b) => b.atSeconds - a.atSeconds);
  const marks = new Map<Snapshot, { mark: PruneMark; rule: KeepRule | null }>();
  if (!keepsAnything(rules)) {
    return newestFirst.map((snapshot) => ({ snapshot, mark: standing(snapshot) ?? 'keep', rule: null }));
  }
  for (const [rank, snapshot] of newestFirst.entries()) {
    if (!snapshot.isFinished) marks.set(snapshot, { mark: rank === 0 ? 'keep-partial' : 'remove', rule: null });
  }
  for (const rule of keepRules) {
    const count = rules[rule];
    if (count !== null && count > 0) markRule(newestFirst, marks, rule, count, toLocal);
  }
  return newestFirst.map((snapshot) => {
    const found = marks.get(snapshot) ?? { mark: 'remove' as const, rule: null };
    const stays = standing(snapshot);
    return { snapshot, ...(found.mark === 'remove' && stays !== null ? { mark: stays, rule: null } : found) };
  });
}

/** Reads the keep rules that were given; others are null. Raises AppError invalid, naming the rule. */
export function parseKeepRules(given: Partial<Record<KeepRule, unknown>>): KeepRules {
  const rules: KeepRules = { last: null, hourly: null, daily: null, weekly: null, monthly: null, yearly: null };
  for (const rule of keepRules) {
    const value = given[rule] ?? null;
    if (value !== null && (typeof value !== 'number' || !Number.isInteger(value) || value < 0)) {
      throw new AppError('invalid', `keep-${rule}: ${JSON.stringify(value)} is not a whole number from 0 on`);
    }
    rules[rule] = value;
  }
  return rules;
}

/** True when at least one rule keeps something. */
export function keepsAnything(rules: KeepRules): boolean {
  return keepRules.some((rule) => (rules[rule] ?? 0) > 0);
}

/**
 * Plays backups at `times` with a prune after each one, and returns which are left at the end, newest first, and the most that ever
 * stood together.
 */
export function simulatePrune(
  times: readonly number[],
  rules: KeepRules,
  toLocal: (atSeconds: number) => LocalTime,
): { left: { atSeconds: number; rule: KeepRule | null }[]; most: number } {
  let kept: PruneVerdict<PruneCandidate>[] = [];
  let most = 0;
  for (const atSeconds of times.toSorted((a, b) => a - b)) {
    const standingNow = [
      ...kept.map(({ snapshot }) => snapshot),
      { atSeconds, isFinished: true, isProtected: false, isLocked: false },
    ];
    most = Math.max(most, standingNow.length);
    kept = planPrune(standingNow, rules, toLocal).filter(({ mark }) => mark !== 'remove');
  }
  return { left: kept.map(({ snapshot, rule }) => ({ atSeconds: snapshot.atSeconds, rule })), most };
}

type Marks<Snapshot> = Map<Snapshot, { mark: PruneMark; rule: KeepRule | null }>;

function markRule<Snapshot extends PruneCandidate>(
  newestFirst: readonly Snapshot[],
  marks: Marks<Snapshot>,
  rule: KeepRule,
  count: number,
  toLocal: (atSeconds: number) => LocalTime,
): void {
  const idOf = (snapshot: Snapshot): string => periodId(rule, snapshot.atSeconds, toLocal);
  const before = new Set<string>();
  for (const snapshot of newestFirst) if (marks.get(snapshot)?.mark === 'keep') before.add(idOf(snapshot));
  const taken = new Set<string>();
  for (const snapshot of newestFirst) {
    if (marks.has(snapshot)) continue;
    if (snapshot.isProtected) {
      marks.set(snapshot, { mark: 'protected', rule: null }); // it counts nothing; a locked one does, as all new ones may be
      continue;
    }
    const id = idOf(snapshot);
    if (before.has(id)) continue;
    if (taken.has(id)) {
      marks.set(snapshot, { mark: 'remove', rule: null });
      continue;
    }
    if (taken.size >= count) break;
    taken.add(id);
    marks.set(snapshot, { mark: 'keep', rule });
  }
}

/** Why a snapshot stays whatever the rules say. */
function standing(snapshot: PruneCandidate): 'protected' | 'locked' | null {
  if (snapshot.isProtected) return 'protected';
  return snapshot.isLocked ? 'locked' : null;
}

function periodId(rule: KeepRule, atSeconds: number, toLocal: (atSeconds: number) => LocalTime): string {
  if (rule === 'last') return String(atSeconds);
  const { year, month, day, hour } = toLocal(atSeconds);
  if (rule === 'hourly') return `${year}/${month}/${day}/${hour}`;
  if (rule === 'daily') return `${year}/${month}/${day}`;
  if (rule === 'monthly') return `${year}/${month}`;
  return rule === 'yearly' ? String(year) : isoWeek(year, month, day);
}

/** The week as in ISO 8601, with the year it belongs to. */
function isoWeek(year: number, month: number, day: number): string {
  const dayMs = 86_400_000;
  const date = new Date(Date.UTC(year, month - 1, day));
  const weekday = (date.getUTCDay() + 6) % 7; // Monday 0
  const thursday = new Date(date.getTime() + (3 - weekday) * dayMs);
  const firstOfYear = Date.UTC(thursday.getUTCFullYear(), 0, 1);
  return `${thursday.getUTCFullYear()}/${Math.floor((thursday.getTime() - firstOfYear) / (7 * dayMs)) + 1}`;
}
