import { relative, resolve } from 'node:path';
import type { TestLine } from './test-driver.ts';

/** What became of the tests so far. Counted are leaves: a test that only holds other tests is not one. */
export type Tally = { passed: number; failed: number; skipped: number };

export type Verdict = {
  outcome: 'passed' | 'failed' | 'skipped';
  file: string;
  name: string;
  tookMs: number;
  why: string | null;
};

/**
 * Reads results in the order they are told (children before their parent) and returns, for each, what is to be counted; null for a test that
 * only holds others.
 */
export function createLeafCounter(): (line: TestLine & { kind: 'result' }) => Verdict | null {
  const hasChild: boolean[] = [];
  return (line) => {
    const isParent = hasChild[line.nesting] === true;
    hasChild[line.nesting] = false;
    if (line.nesting > 0) hasChild[line.nesting - 1] = true;
    const test = { file: relative('.', line.file), name: line.name, tookMs: line.tookMs };
    // A file without a test is told as one passed test of the file's name.
    if (line.outcome === 'passed' && resolve(line.name) === line.file)
      return { ...test, outcome: 'failed', why: 'the file has no test' };
    if (line.outcome === 'failed') {
      const isOnlyItsChildren = isParent && line.failure === 'subtestsFailed';
      return isOnlyItsChildren ? null : { ...test, outcome: 'failed', why: line.error };
    }
    if (line.skip !== null) return { ...test, outcome: 'skipped', why: line.skip };
    return isParent || line.suite ? null : { ...test, outcome: 'passed', why: null };
  };
}

/** The closing line that continuous integration reads. */
export function formatTally({ passed, failed, skipped }: Tally): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}
