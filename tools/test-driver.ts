import { writeSync } from 'node:fs';
import { run } from 'node:test';
import { inspect } from 'node:util';

/**
 * Runs the test files named on the command line in this one process and tells each event on file descriptor 3, one JSON line each. tools/run-tests.ts
 * starts it and watches over it; what the tests print stays on stdout and stderr.
 */
export type TestLine =
  | {
      kind: 'result';
      outcome: 'passed' | 'failed';
      name: string;
      nesting: number;
      suite: boolean;
      file: string;
      tookMs: number;
      skip: string | null;
      error: string | null;
      failure: string | null;
    }
  | { kind: 'note'; text: string };

const resultPipe = 3;

type TestResult = {
  name: string;
  nesting: number;
  file?: string;
  skip?: string | boolean;
  todo?: string | boolean;
  details: { duration_ms: number; type?: string; error?: Error & { failureType?: string; cause?: unknown } };
};

function tell(line: TestLine): void {
  writeSync(resultPipe, `${JSON.stringify(line)}\n`);
}

function describeError(error: TestResult['details']['error']): string | null {
  if (error === undefined) return null;
  const cause = error.cause ?? error;
  return cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause);
}

function tellResult(outcome: 'passed' | 'failed', { name, nesting, file, skip, todo, details }: TestResult): void {
  const reason = skip ?? todo;
  tell({
    kind: 'result',
    outcome,
    name,
    nesting,
    suite: details.type === 'suite',
    file: file ?? '',
    tookMs: details.duration_ms,
    skip: reason === undefined || reason === false ? null : reason === true || reason === '' ? 'no reason given' : reason,
    error: describeError(details.error),
    failure: details.error?.failureType ?? null,
  });
}

const events = run({ files: process.argv.slice(2), isolation: 'none', concurrency: 1 });
events.on('test:pass', (result: TestResult) => tellResult('passed', result));
events.on('test:fail', (result: TestResult) => tellResult('failed', result));
// Diagnostics without a file are the runner's own totals, which are counted again by the reader.
events.on('test:diagnostic', ({ message, file }: { message: string; file?: string }) => {
  if (file !== undefined) tell({ kind: 'note', text: message });
});
events.resume();
