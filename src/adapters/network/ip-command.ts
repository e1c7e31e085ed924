import { execFile } from 'node:child_process';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';

/** A network device as `ip -j -d link` tells it; only what we use. */
export type Link = {
  name: string;
  isUp: boolean;
  mtu: number;
  /** The bridge it is a port of. */
  master: string | null;
  /** `bridge`, `tun`, …; null for plain hardware. */
  kind: string | null;
};

/** Runs `ip` with these arguments. Raises AppError unavailable with what `ip` said, timeout when it hangs. */
export function runIp(args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile('ip', args, { timeout: limits.ipCommandMs, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const kind = error.killed === true ? 'timeout' : 'unavailable';
      reject(new AppError(kind, `ip ${args.join(' ')}: ${stderr.trim() || error.message}`, { cause: error }));
    });
  });
}

/** Every network device of this network namespace. */
export async function listLinks(): Promise<Link[]> {
  const text = await runIp(['-j', '-d', 'link', 'show']);
  return (JSON.parse(text) as IpLink[]).map(({ ifname, flags, mtu, master, linkinfo }) => ({
    name: ifname,
    isUp: flags.includes('UP'),
    mtu,
    master: master ?? null,
    kind: linkinfo?.info_kind ?? null,
  }));
}

type IpLink = { ifname: string; flags: string[]; mtu: number; master?: string; linkinfo?: { info_kind?: string } };
