import { AppError, formatErrorChain, isAppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { GuestRecord, ReplicaPoint } from '#core/guest/guest-record.ts';
import { defaultReplicationJob, type ReplicaRecord } from '#core/replica/records.ts';
import type { TargetCopy } from '#core/replica/send-plan.ts';
import { newestPoint } from '#core/storage/manifest.ts';
import type { AgentProcess } from '#sim/agent.ts';
import { diskSize, type Image, type Session } from '#sim/disk.ts';
import { keys } from '#sim/known-keys.ts';
import { type Outcome, type Task, wait } from '#sim/process.ts';

/** A sender's connection to a receiver: what it has open there is bound to it. */
export type Line = { from: AgentProcess; to: string; vmid: number; session: { open: Session; receiver: AgentProcess } | null };

export type Ask =
  | { kind: 'state' }
  | { kind: 'begin'; point: ReplicaPoint }
  | { kind: 'blocks'; blocks: [number, number][] }
  | { kind: 'seal'; pointAtMs: number; lastCycle: ReplicaRecord['lastCycle'] }
  | { kind: 'hang-up' };

/** What the sender gets to know; the image stands for the hashes that a compare asks for. */
export type Answer = TargetCopy & { image: Image };

/** One call over the relays. The receiver works on it whether or not anybody waits for the answer. Raises AppError. */
export function* callReceiver(line: Line, ask: Ask): Task<Answer> {
  return yield* wait<Answer>((resume) => send(line, ask, resume));
}

function send(line: Line, ask: Ask, resume: (outcome: Outcome<Answer>) => void): void {
  const { cluster, host } = line.from;
  const { engine, network } = cluster;
  let isOver = false;
  const give = (outcome: Outcome<Answer>) => {
    if (!isOver) resume(outcome);
    isOver = true;
  };
  const lose = (waitMs: number) =>
    engine.after(waitMs, () => {
      if (!isOver) give({ ok: false, error: new AppError('unavailable', `${line.to} does not answer`) });
    });
  lose(limits.replicaCallMs);
  engine.after(network.delayMs(), () => {
    const receiver = cluster.host(line.to).agent;
    if (receiver === null || !network.isOpenBoth('link', host.name, line.to)) return lose(limits.relaySilenceMs);
    receiver.deliver(() => {
      receiver.start(answer(receiver, line, ask, give), (error) => {
        if (error === null) return;
        if (!isAppError(error)) throw error;
        reply(line, give, { ok: false, error: new AppError(error.kind, formatErrorChain(error)) });
      });
    });
  });
}

function reply(line: Line, resume: (outcome: Outcome<Answer>) => void, outcome: Outcome<Answer>): void {
  const { engine, network } = line.from.cluster;
  engine.after(network.delayMs(), () => {
    if (network.isOpenBoth('link', line.from.host.name, line.to)) resume(outcome);
  });
}

/** As the calls of programs/replication/receiver.ts. */
function* answer(receiver: AgentProcess, line: Line, ask: Ask, resume: (outcome: Outcome<Answer>) => void): Task<void> {
  const { disk } = receiver.host;
  const { rules, checks, dice, engine } = receiver.cluster;
  const sender = line.from.host.name;
  switch (ask.kind) {
    case 'state':
      break;
    case 'begin':
      if (rules.authorize) yield* authorizeSender(receiver, line.vmid, sender, ask.point.generation);
      yield* receiver.sleep(dice.between(5, 200));
      line.session = { open: disk.begin(line.vmid, sender, ask.point, !rules.authorize), receiver };
      break;
    case 'blocks':
      for (const [block, write] of ask.blocks) requireOpen(receiver, line).blocks.set(block, write);
      break;
    case 'seal': {
      const session = requireOpen(receiver, line);
      line.session = null;
      const askedAtMs = engine.nowMs;
      if (rules.authorize) {
        try {
          yield* authorizeSender(receiver, line.vmid, sender, session.point.generation);
        } catch (error) {
          disk.abort(session);
          throw error;
        }
      }
      yield* receiver.sleep(dice.between(5, 300));
      const about = { source: sender, pointAtMs: ask.pointAtMs, appliedAtMs: receiver.host.wallMs(), configSha256: '' };
      disk.seal(session, { ...about, lastCycle: ask.lastCycle });
      checks.noteSeal(receiver.host, session, askedAtMs);
      receiver.run(announceAndThin(receiver, line.vmid));
      break;
    }
    case 'hang-up':
      if (line.session?.receiver === receiver) disk.abort(line.session.open);
      line.session = null;
  }
  reply(line, resume, { ok: true, value: describe(receiver, line.vmid) });
}

function* announceAndThin(receiver: AgentProcess, vmid: number): Task<void> {
  yield* receiver.replication.announce(vmid);
  yield* receiver.sleep(receiver.cluster.dice.between(10, 500));
  receiver.host.disk.thin(vmid, defaultReplicationJob.keep);
}

function requireOpen(receiver: AgentProcess, line: Line): Session {
  if (line.session?.receiver !== receiver) throw new AppError('conflict', `${line.from.host.name} has begun no point`);
  return line.session.open;
}

function describe(receiver: AgentProcess, vmid: number): Answer {
  const manifest = receiver.host.disk.manifest(vmid);
  if (manifest === null) return { role: 'absent', generation: 0, point: null, disks: [], image: [] };
  const newest = newestPoint(manifest);
  return {
    role: manifest.role,
    generation: manifest.generation,
    point: newest && { generation: newest.generation, seq: newest.seq },
    disks: newest === null ? [] : diskSize,
    image: receiver.host.disk.top(vmid),
  };
}

/** As authorizeSender of programs/agent/node-storage.ts. Raises AppError unless `sender` is the guest's home at `generation`. */
function* authorizeSender(agent: AgentProcess, vmid: number, sender: string, generation: number): Task<void> {
  const record = yield* agent.readNow<GuestRecord>(keys.guest(vmid));
  if (record === null) throw new AppError('missing', `points of guest ${vmid} from ${sender}: there is no such guest`);
  if (record.value.home !== sender || record.value.generation !== generation) {
    throw new AppError(
      'conflict',
      `points of guest ${vmid} from ${sender}: its home is ${record.value.home}; nothing was changed`,
    );
  }
}
