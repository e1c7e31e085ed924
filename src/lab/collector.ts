import { createSocket } from 'node:dgram';
import { closeSync, openSync, writeSync } from 'node:fs';
import { once } from 'node:events';
import { AppError } from '#base/error.ts';
import { addToWitness, reportWitness, startWitness, type WitnessReport, type WitnessState } from '#lab/collector-analysis.ts';
import { parseProbeDatagram, type WitnessRecord } from '#lab/collector-record.ts';

/** How often the collector looks whether it is on time itself. */
const lookMs = 20;
/** Room in the kernel for some seconds of datagrams while this process is kept from running. */
const receiveBufferBytes = 1 << 20;

export type Collector = {
  readonly port: number;
  /** What is proven so far, one report a guest. */
  report(): WitnessReport[];
  /** Datagrams that no probe guest sends. */
  strangers(): number;
  close(): Promise<void>;
};

/**
 * Listens for probe guests on UDP `bind` (`ADDRESS:PORT`; port 0: any), appends every datagram with its time of arrival to `file` as one JSON line.
 * Raises AppError invalid for a malformed `bind`, unavailable when it cannot be listened on.
 */
export async function startCollector(options: { bind: string; file: string }): Promise<Collector> {
  const { address, port } = parseBind(options.bind);
  const file = openSync(options.file, 'a', 0o644);
  const socket = createSocket({ type: 'udp4', recvBufferSize: receiveBufferBytes });
  const states = new Map<number, WitnessState>();
  const lateness = watchLateness();
  let strangers = 0;
  socket.on('message', (message, sender) => {
    const datagram = parseProbeDatagram(message.toString('utf8'));
    if (datagram === null) {
      strangers += 1;
      return;
    }
    const times = { arrivedAtMs: Date.now(), arrivedMonoMs: monoMs(), lateMs: lateness.readMs() };
    const record: WitnessRecord = { ...datagram, ...times, from: sender.address };
    writeSync(file, `${JSON.stringify(record)}\n`);
    const state = states.get(record.vmid) ?? startWitness(record.vmid);
    states.set(record.vmid, state);
    addToWitness(state, record);
  });
  try {
    socket.bind(port, address);
    await once(socket, 'listening');
  } catch (cause) {
    lateness.stop();
    closeSync(file);
    throw new AppError('unavailable', `listening for probe guests on UDP ${options.bind}: is another collector running there?`, {
      cause,
    });
  }
  return {
    port: socket.address().port,
    report: () => [...states.values()].map(reportWitness).toSorted((a, b) => a.vmid - b.vmid),
    strangers: () => strangers,
    close: async () => {
      lateness.stop();
      socket.close();
      await once(socket, 'close');
      closeSync(file);
    },
  };
}

/** CLOCK_MONOTONIC of this machine: the same for every process on it. */
function monoMs(): number {
  return Math.round(Number(process.hrtime.bigint() / 1_000n)) / 1_000;
}

function parseBind(bind: string): { address: string; port: number } {
  const match = /^(\d+\.\d+\.\d+\.\d+):(\d{1,5})$/.exec(bind);
  if (match === null)
    throw new AppError('invalid', `--bind ${JSON.stringify(bind)}: give an address and a port, e.g. 0.0.0.0:7700`);
  return { address: match[1] ?? '', port: Number(match[2]) };
}

/** Measures how long this process is kept from running: a timer that fires late was. Reading returns the latest and forgets it. */
function watchLateness(): { readMs: () => number; stop: () => void } {
  let dueMs = monoMs() + lookMs;
  let worstMs = 0;
  const look = (): void => {
    const nowMs = monoMs();
    worstMs = Math.max(worstMs, nowMs - dueMs);
    dueMs = nowMs + lookMs;
  };
  const timer = setInterval(look, lookMs);
  return {
    readMs: () => {
      const lateMs = Math.max(0, Math.round(Math.max(worstMs, monoMs() - dueMs)));
      worstMs = 0;
      return lateMs;
    },
    stop: () => clearInterval(timer),
  };
}
