import { execFile } from 'node:child_process';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';

/** Our programs as systemd's units. Every call waits for its end, with a deadline. Raise AppError unavailable, timeout or missing. */
export type Units = {
  isActive(unit: string): Promise<boolean>;
  /** Starts them now, in the order that they themselves tell systemd, and at every boot; one that runs already goes on. */
  enable(...units: string[]): Promise<void>;
  /** Stops it and keeps it stopped. */
  disable(unit: string): Promise<void>;
};

export function createUnits(): Units {
  return {
    isActive: async (unit) => (await systemctl(['is-active', '--quiet', unit])).code === 0,
    // All at once: systemd reads every unit of the machine anew for each call.
    enable: (...units) => demand(`start ${units.join(', ')}`, ['enable', '--now', '--quiet', ...units]),
    disable: (unit) => demand(`stop ${unit}`, ['disable', '--now', '--quiet', unit]),
  };
}

async function demand(what: string, args: string[]): Promise<void> {
  const { code, stderr } = await systemctl(args);
  if (code === 0) return;
  throw new AppError(
    'unavailable',
    `${what}: systemctl ended with ${code}: ${stderr.trim() || 'it said nothing'}; see journalctl -u ${args.at(-1)}`,
  );
}

function systemctl(args: string[]): Promise<{ code: number; stderr: string }> {
  return new Promise((resolve, reject) => {
    execFile('systemctl', args, { timeout: limits.systemctlMs, killSignal: 'SIGKILL' }, (error, _stdout, stderr) => {
      const what = `systemctl ${args.join(' ')}`;
      if (error === null) resolve({ code: 0, stderr });
      else if (error.code === 'ENOENT') reject(new AppError('missing', `${what}: systemd is not installed`, { cause: error }));
      else if (error.killed === true)
        reject(new AppError('timeout', `${what}: no end within ${limits.systemctlMs} ms`, { cause: error }));
      else resolve({ code: Number(error.code ?? 1), stderr });
    });
  });
}
