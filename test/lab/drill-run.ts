import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

const holdfast = fileURLToPath(new URL('../../bin/holdfast', import.meta.url));

/**
 * Runs `holdfast drill …` as a user would, with `--json`; returns its exit code, what it printed and what it wrote. The drill is ended
 * (SIGTERM, then its lab ends with it) when it takes longer than `deadlineMs`.
 */
export async function runDrill<T>(
  t: TestContext,
  argv: string[],
  deadlineMs: number,
): Promise<{ code: number; text: string; result: T | null }> {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-drill-'));
  const file = join(folder, 'result.json');
  try {
    const child = spawn(holdfast, [...argv, '--json', file], { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    child.stdout.on('data', (part: Buffer) => (text += part.toString()));
    child.stderr.on('data', (part: Buffer) => (text += part.toString()));
    const timer = setTimeout(() => child.kill('SIGTERM'), deadlineMs);
    const code = await new Promise<number>((resolve) => child.on('close', (status) => resolve(status ?? 1)));
    clearTimeout(timer);
    for (const line of text.trimEnd().split('\n')) t.diagnostic(line);
    return { code, text, result: readResult<T>(file) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function readResult<T>(file: string): T | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch {
    return null; // the drill ended before it had anything to say; its text says why
  }
}
