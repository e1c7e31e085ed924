import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';
import {
  choiceShape,
  findTroubles,
  listShape,
  nullableShape,
  numberShape,
  objectShape,
  type Shape,
  type Shaped,
  textShape,
  wholeShape,
} from '#core/text/shape.ts';

/**
 * What the programs of one node tell each other through files in the run folder (a tmpfs, empty after each boot). Each file has one
 * writer, is replaced whole (rename), and is read whole.
 *
 *   guard.json            guard -> agent   phase, epoch, watchdog, problems
 *   agent-alive.json      agent -> guard   "I am alive", load
 *   release-request.json  agent -> guard   "give the permit back"; the agent deletes it when the node is to serve again
 */
const guardPhase = choiceShape([
  'starting',
  'serving',
  'freezing',
  'frozen',
  'disarmed',
  'arming',
  'clearing',
  'releasing',
  'released',
  'doomed',
]);

const guardLocalState = objectShape({
  bootId: textShape(),
  pid: wholeShape(),
  /**
   * What the guard is doing; `clearing` and `releasing` also mean: cut the HA guests' network ports now. `disarmed` outlives the guard: the next
   * one of this boot goes by it.
   */
  phase: guardPhase,
  /** The epoch whose guests may be here now; null: none. One may be started only while the phase is `serving`. */
  epoch: nullableShape(wholeShape()),
  sinceBootMs: numberShape(),
  /** When the guests were last thawed under this epoch: their clocks are behind. null: not since this guard serves. */
  thawedBootMs: nullableShape(numberShape()),
  because: textShape(),
  watchdog: objectShape({
    device: textShape(),
    /** As read back; null: not open. */
    timeoutMs: nullableShape(numberShape()),
    wantedMs: numberShape(),
  }),
  /** Why this node cannot serve HA, in words; empty when it can. */
  problems: listShape(textShape()),
});

const agentAlive = objectShape({
  atBootMs: numberShape(),
  load: objectShape({ guestsRunning: wholeShape(), memoryUsedMb: numberShape() }),
});

const releaseRequest = objectShape({ reason: textShape(), askedBootMs: numberShape() });

export type GuardLocalState = Shaped<typeof guardLocalState>;
export type AgentAlive = Shaped<typeof agentAlive>;
export type ReleaseRequest = Shaped<typeof releaseRequest>;

const names = { guard: 'guard.json', agent: 'agent-alive.json', release: 'release-request.json' } as const;

/** Raises AppError unavailable when the run folder cannot be written. */
export function writeGuardState(run: string, state: GuardLocalState): void {
  writeWhole(run, names.guard, state);
}

/** null: the guard has not written since this boot. Raises AppError invalid when the file is not what a guard writes. */
export function readGuardState(run: string): GuardLocalState | null {
  return readWhole(run, names.guard, guardLocalState);
}

/** Raises AppError unavailable when the run folder cannot be written. */
export function writeAgentAlive(run: string, alive: AgentAlive): void {
  writeWhole(run, names.agent, alive);
}

/** null: the agent has not been seen since this boot. Raises AppError invalid. */
export function readAgentAlive(run: string): AgentAlive | null {
  return readWhole(run, names.agent, agentAlive);
}

/**
 * Asks the guard to give the node's permit back. Stop the guests first: the guard kills at once whatever is still in the HA
 * control group, then revokes its own permit with the proof `released`. Raises AppError unavailable.
 */
export function writeReleaseRequest(run: string, request: ReleaseRequest): void {
  writeWhole(run, names.release, request);
}

/** null: nobody asks. Raises AppError invalid. */
export function readReleaseRequest(run: string): ReleaseRequest | null {
  return readWhole(run, names.release, releaseRequest);
}

/** The node is to serve again. */
export function removeReleaseRequest(run: string): void {
  rmSync(join(run, names.release), { force: true });
}

/**
 * The same files for those who look many times a second. What is returned reads a file only when it is another one than at the last look: each write
 * makes a new file, so its number or its time is another. Raises as the reading does.
 */
export const followGuardState = (run: string) => follow(run, names.guard, guardLocalState);
export const followAgentAlive = (run: string) => follow(run, names.agent, agentAlive);
export const followReleaseRequest = (run: string) => follow(run, names.release, releaseRequest);

function follow<T>(run: string, name: string, shape: Shape<T>): () => T | null {
  const file = join(run, name);
  let seen: { ino: bigint; mtimeNs: bigint; value: T | null } | null = null;
  return () => {
    const now = look(file);
    if (now === null) seen = null;
    if (now === null || (seen?.ino === now.ino && seen.mtimeNs === now.mtimeNs)) return seen?.value ?? null;
    seen = null;
    const value = readWhole(run, name, shape);
    seen = { ino: now.ino, mtimeNs: now.mtimeNs, value };
    return value;
  };
}

function look(file: string): { ino: bigint; mtimeNs: bigint } | null {
  try {
    return statSync(file, { bigint: true, throwIfNoEntry: false }) ?? null;
  } catch (error) {
    throw new AppError('unavailable', `looking at ${file} failed`, { cause: error });
  }
}

function writeWhole(run: string, name: string, value: unknown): void {
  const temporary = join(run, `.${name}.${process.pid}`);
  try {
    mkdirSync(run, { recursive: true, mode: 0o750 });
    writeFileSync(temporary, `${JSON.stringify(value)}\n`, { mode: 0o640 });
    renameSync(temporary, join(run, name));
  } catch (error) {
    throw new AppError('unavailable', `writing ${join(run, name)} failed`, { cause: error });
  }
}

function readWhole<T>(run: string, name: string, shape: Shape<T>): T | null {
  const file = join(run, name);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw new AppError('unavailable', `reading ${file} failed`, { cause: error });
  }
  const value = parseJson(file, text);
  const [first] = findTroubles(shape, value);
  if (first === undefined) return value as T;
  throw new AppError('invalid', `${file}: ${first.path.join('.')} ${first.text}`);
}

function parseJson(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new AppError('invalid', `${file} is not JSON`, { cause: error });
  }
}
