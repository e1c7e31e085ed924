import { type ChildProcess, spawn } from 'node:child_process';
import { AppError } from '#base/error.ts';
import { fullLimits } from './full-limits.ts';

export type Ended = { code: number; out: string; err: string };

export type MachineShell = {
  /** Runs a line of shell as root; returns how it ended. Raises AppError unavailable (not reached), timeout. */
  run(line: string, options?: { input?: string | Buffer; deadlineMs?: number; onLine?: (line: string) => void }): Promise<Ended>;
  /** Like `run`, and raises AppError unavailable with the command's words when it does not succeed. Returns what it wrote. */
  must(
    line: string,
    options?: { input?: string | Buffer; deadlineMs?: number; onLine?: (line: string) => void },
  ): Promise<string>;
  /** Whether somebody logs in. */
  answers(): Promise<boolean>;
  /** Forgets the open connection: the machine behind it is gone. */
  hangUp(): void;
};

/** ssh says so when it did not get through; a command's own codes are below. */
const notReached = 255;

/** A root shell in a machine by ssh, one connection shared by all commands: a login costs an emulated CPU a second and a half. */
export function openMachineShell(machine: { name: string; address: string; key: string; socket: string }): MachineShell {
  const options = {
    StrictHostKeyChecking: 'no',
    UserKnownHostsFile: '/dev/null',
    LogLevel: 'ERROR',
    ConnectTimeout: '5',
    ServerAliveInterval: '5',
    ServerAliveCountMax: '6',
    ControlPath: machine.socket,
    ControlMaster: 'auto',
    ControlPersist: '600',
  };
  const base = [
    '-F',
    '/dev/null',
    '-i',
    machine.key,
    ...Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`]),
  ];
  const target = `root@${machine.address}`;
  let children = new Set<ChildProcess>();
  const run: MachineShell['run'] = (line, { input, deadlineMs = fullLimits.commandMs, onLine } = {}) =>
    new Promise((resolve, reject) => {
      const child = spawn('ssh', [...base, target, line], { stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'] });
      const ended: Ended = { code: 0, out: '', err: '' };
      children.add(child);
      let isLate = false;
      const timer = setTimeout(() => ((isLate = true), child.kill('SIGKILL')), deadlineMs);
      child.stdout?.on('data', (chunk: Buffer) => (ended.out += chunk.toString()));
      child.stderr?.on('data', (chunk: Buffer) => {
        ended.err += chunk.toString();
        for (const text of chunk.toString().split('\n')) if (text !== '') onLine?.(text);
      });
      child.stdin?.on('error', () => undefined);
      child.stdin?.end(input);
      child.once('error', (cause) => reject(new AppError('missing', 'starting ssh (Debian package openssh-client)', { cause })));
      child.once('exit', (code) => {
        clearTimeout(timer);
        children.delete(child);
        ended.code = code ?? notReached;
        const what = `${machine.name}: ${line.slice(0, 120)}`;
        if (isLate)
          reject(new AppError('timeout', `${what}: not ended after ${deadlineMs / 1000} s; it said: ${ended.err.slice(-500)}`));
        else if (ended.code === notReached)
          reject(new AppError('unavailable', `${what}: the machine was not reached: ${ended.err.trim().slice(-300)}`));
        else resolve(ended);
      });
    });
  return {
    run,
    async must(line, more) {
      const ended = await run(line, more);
      if (ended.code === 0) return ended.out;
      const words = (ended.err.trim() || ended.out.trim()).slice(-1500);
      throw new AppError('unavailable', `${machine.name}: ${line.slice(0, 120)}: ended with code ${ended.code}: ${words}`);
    },
    answers: () =>
      run('true', { deadlineMs: fullLimits.loginMs }).then(
        () => true,
        () => false,
      ),
    hangUp() {
      for (const child of children) child.kill('SIGKILL');
      children = new Set();
      spawn('ssh', [...base, '-O', 'exit', target], { stdio: 'ignore' }).once('error', () => undefined);
    },
  };
}
