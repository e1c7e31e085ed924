import { closeSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { labPaths, nodePaths } from '#lab/lab-paths.ts';
import type { LabSpec } from '#lab/lab-spec.ts';

/** Enough for the last few lines of each program. */
const endBytes = 1200;

/** The ends of all logs of a lab, as text to put behind an error; empty when there are none. */
export function readLogEnds(spec: LabSpec): string {
  const files = [labPaths(spec.name).roomLog];
  for (const node of spec.nodes) {
    const paths = nodePaths(spec.name, node.name);
    files.push(paths.console, ...listLogs(join(paths.data, 'log')));
  }
  const ends = files.map((file) => ({ file, end: readEnd(file) })).filter(({ end }) => end !== '');
  return ends.map(({ file, end }) => `\n--- ${file}\n${end}`).join('');
}

function listLogs(directory: string): string[] {
  try {
    return readdirSync(directory)
      .filter((name) => name.endsWith('.log'))
      .map((name) => join(directory, name));
  } catch {
    return []; // the node never booted
  }
}

function readEnd(file: string): string {
  try {
    const fd = openSync(file, 'r');
    const bytes = Buffer.alloc(endBytes);
    const start = Math.max(0, fstatSync(fd).size - endBytes);
    const length = readSync(fd, bytes, 0, endBytes, start);
    closeSync(fd);
    return bytes.toString('utf8', 0, length).trim();
  } catch {
    return ''; // it never wrote one
  }
}
