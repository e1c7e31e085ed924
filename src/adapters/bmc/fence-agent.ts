import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { Bmc } from '#ports/bmc.ts';
import { type FenceRun, parsePowerStatus, sortFenceFailure } from './fence-answer.ts';

export type FenceAgentOptions = {
  address: string;
  port: number;
  user: string;
  /** Holds the password and nothing else; readable by this program only. */
  passwordFile: string;
  /** RMCP+ cipher suite; left out: ipmitool asks the controller for its best. */
  cipherSuite?: number;
};

const ipmitoolStandIn = fileURLToPath(new URL('ipmitool-with-password-file.sh', import.meta.url));

/** Seconds ipmitool waits for one answer: four attempts of a dead controller still fit into one call of ours. */
const ipmitoolTimeoutSeconds = 1;

/**
 * A management controller asked by Debian's `fence_ipmilan` (package fence-agents), a new process a call. Nothing secret is in any
 * argument list: options go in by standard input, the password only as the name of its file. Every call ends within
 * `limits.bmcCallMs`. Calls raise AppError timeout, unavailable, denied (wrong password or user), missing (a program or the
 * password file).
 */
export function createFenceAgentBmc(options: FenceAgentOptions): Bmc {
  const where = `controller ${options.address}:${options.port}`;
  const order = async (action: 'on' | 'off', signal?: AbortSignal) => {
    const what = `${where}: asking for power ${action}`;
    const run = await runAgent(what, options, action, signal);
    if (run.code !== 0) throw sortFenceFailure(what, run);
  };
  return {
    async readPower(signal) {
      const what = `${where}: reading the power`;
      const run = await runAgent(what, options, 'status', signal);
      const power = parsePowerStatus(run);
      if (power === null) throw sortFenceFailure(what, run);
      return power;
    },
    powerOff: (signal) => order('off', signal),
    powerOn: (signal) => order('on', signal),
  };
}

/** Options of the agent as key=value lines, as the cluster managers pass them. */
export function formatAgentInput(options: FenceAgentOptions, action: 'status' | 'on' | 'off'): string {
  const lines = [
    `action=${action}`,
    `ip=${options.address}`,
    `ipport=${options.port}`,
    `username=${options.user}`,
    'lanplus=1',
    `ipmitool_path=${ipmitoolStandIn}`,
    `ipmitool_timeout=${ipmitoolTimeoutSeconds}`,
    // Whether the order was carried out is for our own reads to say.
    'power_wait=0',
    'verbose=1',
    'verbose_level=2',
  ];
  if (options.cipherSuite !== undefined) lines.push(`cipher=${options.cipherSuite}`);
  return `${lines.join('\n')}\n`;
}

function runAgent(
  what: string,
  options: FenceAgentOptions,
  action: 'status' | 'on' | 'off',
  signal?: AbortSignal,
): Promise<FenceRun> {
  checkOptions(what, options);
  return new Promise((resolve, reject) => {
    const child = spawn('fence_ipmilan', [], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: {
        PATH: [process.env['PATH'], '/usr/sbin', '/usr/bin', '/sbin', '/bin'].filter(Boolean).join(delimiter),
        HOLDFAST_BMC_PASSWORD_FILE: options.passwordFile,
        PYTHONWARNINGS: 'ignore',
      },
      // Its own group, so that ipmitool below it ends with it.
      detached: true,
    });
    const run = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (run.stdout += chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (run.stderr += chunk));
    child.stdin.on('error', () => undefined); // it ended early; its exit says why
    child.stdin.end(formatAgentInput(options, action));
    let overdue = false;
    const end = () => {
      overdue = true;
      if (child.pid !== undefined) killQuietly(-child.pid);
    };
    const timer = setTimeout(end, limits.bmcCallMs);
    signal?.addEventListener('abort', end, { once: true });
    const settle = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
    };
    child.once('error', (cause) => {
      settle();
      reject(new AppError('missing', `${what}: fence_ipmilan cannot be started (Debian package fence-agents)`, { cause }));
    });
    child.once('close', (code) => {
      settle();
      resolve({ ...run, code: overdue ? null : code });
    });
    if (signal?.aborted === true) end();
  });
}

/** The agent reads lines and splits some of them into words: nothing of ours may be more than one. */
function checkOptions(what: string, options: FenceAgentOptions): void {
  for (const [name, value] of Object.entries({ address: options.address, user: options.user })) {
    if (!/^[\w.:@-]+$/.test(value))
      throw new AppError('invalid', `${what}: ${name} ${JSON.stringify(value)} has characters it cannot have`);
  }
  try {
    readFileSync(options.passwordFile);
  } catch (cause) {
    throw new AppError('missing', `${what}: the password file ${options.passwordFile} cannot be read`, { cause });
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it ended by itself meanwhile
  }
}
