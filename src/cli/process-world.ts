import { randomBytes } from 'node:crypto';
import { open, stat } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { drillTools, loadLab } from '#cli/lab-tools.ts';
import { readSecret } from '#cli/secret-line.ts';
import { loadPools } from '#cli/pool-tools.ts';
import { loadSetup } from '#cli/setup-tools.ts';
import type { CliWorld, Writer } from '#cli/world.ts';

/** Most of a log that is read at once. */
const chunkBytes = 1 << 20;
const defaultWidthColumns = 100;

/** The world of a real process. `argv` is what the command was called with, to run it again inside a lab's network. */
export function createWorld(argv: string[], signal: AbortSignal): CliWorld {
  return {
    out: createWriter(process.stdout),
    err: createWriter(process.stderr),
    nowMs: () => Date.now(),
    sleep: (waitMs) => wait(waitMs, undefined, { signal }),
    chance: (letters) =>
      randomBytes(Math.ceil(letters / 2))
        .toString('hex')
        .slice(0, letters),
    signal,
    // Loaded when asked for: a client of backup servers knows no cluster.
    reach: async (options) => (await import('#cli/reach.ts')).reachCluster(options, argv),
    loadLab,
    drills: drillTools,
    loadSetup,
    loadPools,
    readSecret: (question) => readSecret(question, signal),
    // Node.js writes it over the arguments that the kernel shows (process.title).
    hideArguments: () => void (process.title = 'holdfast'),
    readFileFrom,
    environment: (name) => process.env[name] || null,
    fileSizeBytes: async (path) => (await ignoreAbsent(stat(path)))?.size ?? null,
  };
}

function createWriter(stream: NodeJS.WriteStream): Writer {
  return {
    write: (text) => void stream.write(text),
    isTerminal: stream.isTTY === true,
    widthColumns: stream.isTTY === true ? Math.max(60, stream.columns) : defaultWidthColumns,
  };
}

async function readFileFrom(path: string, offsetBytes: number): Promise<{ text: string; nextBytes: number } | null> {
  const file = await ignoreAbsent(open(path, 'r'));
  if (file === null) return null;
  try {
    const { size } = await file.stat();
    const from = offsetBytes > size ? 0 : offsetBytes;
    const buffer = Buffer.alloc(Math.min(chunkBytes, size - from));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, from);
    return { text: buffer.subarray(0, bytesRead).toString('utf8'), nextBytes: from + bytesRead };
  } finally {
    await file.close();
  }
}

async function ignoreAbsent<T>(work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
