import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Type from 'typebox';
import { Value } from 'typebox/value';
import { AppError } from '#base/error.ts';

/**
 * What the programs of one node tell each other through files in the run folder (a tmpfs, empty after each boot). Each file has one
 * writer, is replaced whole (rename), and is read whole.
 *
 *   guard.json            guard -> agent   phase, epoch, watchdog, problems
 *   agent-alive.json      agent -> guard   "I am alive", load
 *   release-request.json  agent -> guard   "give the permit back"; the agent deletes it when the node is to serve again
 */
const guardPhase = Type.Union([
  Type.Literal('starting'),
  Type.Literal('serving'),
  Type.Literal('freezing'),
  Type.Literal('frozen'),
  Type.Literal('disarmed'),
  Type.Literal('arming'),
  Type.Literal('clearing'),
  Type.Literal('releasing'),
  Type.Literal('released'),
  Type.Literal('doomed'),
]);

const guardLocalState = Type.Object({
  bootId: Type.String(),
  pid: Type.Integer(),
  /**
   * What the guard is doing; `clearing` and `releasing` also mean: cut the HA guests' network ports now. `disarmed` outlives the guard: the next
   * one of this boot goes by it.
   */
  phase: guardPhase,
  /** The epoch whose guests may be here now; null: none. One may be started only while the phase is `serving`. */
  epoch: Type.Union([Type.Integer(), Type.Null()]),
  sinceBootMs: Type.Number(),
  /** When the guests were last thawed under this epoch: their clocks are behind. null: not since this guard serves. */
  thawedBootMs: Type.Union([Type.Number(), Type.Null()]),
  because: Type.String(),
  watchdog: Type.Object({
    device: Type.String(),
    /** As read back; null: not open. */
    timeoutMs: Type.Union([Type.Number(), Type.Null()]),
    wantedMs: Type.Number(),
  }),
  /** Why this node cannot serve HA, in words; empty when it can. */
  problems: Type.Array(Type.String()),
});

const agentAlive = Type.Object({
  atBootMs: Type.Number(),
  load: Type.Object({ guestsRunning: Type.Integer(), memoryUsedMb: Type.Number() }),
});

const releaseRequest = Type.Object({ reason: Type.String(), askedBootMs: Type.Number() });

export type GuardLocalState = Type.Static<typeof guardLocalState>;
export type AgentAlive = Type.Static<typeof agentAlive>;
export type ReleaseRequest = Type.Static<typeof releaseRequest>;

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

function readWhole<Schema extends Type.TSchema>(run: string, name: string, schema: Schema): Type.Static<Schema> | null {
  const file = join(run, name);
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw new AppError('unavailable', `reading ${file} failed`, { cause: error });
  }
  const value = parseJson(file, text);
  if (Value.Check(schema, value)) return value;
  const [first] = Value.Errors(schema, value);
  throw new AppError('invalid', `${file}: ${first?.instancePath ?? ''} ${first?.message ?? 'has the wrong shape'}`);
}

function parseJson(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new AppError('invalid', `${file} is not JSON`, { cause: error });
  }
}
