import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { formatNodeCommand, runInNode } from '#lab/lab.ts';
import { nodePaths } from '#lab/lab-paths.ts';
import { requireLabSpec, type ServiceSpec } from '#lab/lab-spec.ts';

const root = join(import.meta.dirname, '../..');
const main = join(root, 'src/cli/main.ts');

/** Our programs as their units run them, each held until `holdfast init` or `join` starts it. */
export function heldServices(): ServiceSpec[] {
  const program = (name: string) => [process.execPath, join(root, 'src/programs', name, 'main.ts')];
  const config = ['--config', '/etc/holdfast/node.toml'];
  const held = { restart: 'always', nice: 0, needsCluster: true } as const;
  return [
    { ...held, name: 'etcd', argv: ['/bin/sh', '-c', 'set -a; . /etc/holdfast/etcd.env; exec etcd'], nice: -5 },
    { ...held, name: 'guard', argv: [...program('guard'), ...config], restart: 'never', nice: -5 },
    { ...held, name: 'relay', argv: [...program('relay'), ...config] },
    { ...held, name: 'agent', argv: [...program('agent'), ...config] },
  ];
}

export type Ended = { code: number; out: string; err: string };

/** One machine of the lab as an operator meets it: nothing of Holdfast is set up on it. */
export type Machine = {
  name: string;
  address: string;
  run(...argv: string[]): Promise<Ended>;
  /** As `run`; `input` goes to standard input. */
  runWith(input: string, ...argv: string[]): Promise<Ended>;
  /** Kills the command as soon as it says a line that begins with `line`. Throws when it ended before. */
  runAndKillAt(line: string, input: string, ...argv: string[]): Promise<void>;
  /** What lies in /etc/holdfast. */
  listSettings(): string[];
  read(path: string): string;
  /** Takes its disks out; the returned function puts them into the (empty) machine again. */
  keep(): () => void;
  /** A new machine in the place of the old one: empty disks. */
  wipe(): void;
};

export function openMachine(lab: string, name: string): Machine {
  const paths = nodePaths(lab, name);
  const { cgroup, nodes } = requireLabSpec(lab);
  const { address } = nodes.find((node) => node.name === name)!;
  const bin = join(paths.data, '..', 'bin');
  mkdirSync(bin, { recursive: true });
  const fake = join(import.meta.dirname, 'fake-systemctl.ts');
  writeFileSync(
    join(bin, 'systemctl'),
    `#!/bin/sh\nINIT_SOCKET='${paths.initSocket}' exec '${process.execPath}' '${fake}' "$@"\n`,
  );
  chmodSync(join(bin, 'systemctl'), 0o755);
  const command = (argv: string[]) => {
    const machineOptions = ['init', 'join'].includes(argv[0]!) && !argv.includes('--guests-cgroup');
    const group = machineOptions ? ['--guests-cgroup', join(cgroup, name, 'ha')] : [];
    const environment = ['env', `PATH=${bin}:/usr/sbin:/usr/bin:/sbin:/bin`];
    return [...environment, 'setpriv', '--pdeathsig', 'KILL', process.execPath, main, ...argv, ...group];
  };
  const runWith = async (input: string, ...argv: string[]) => {
    const { code, stdout, stderr } = await runInNode(lab, name, command(argv), { input, deadlineMs: 240_000 });
    return { code, out: stdout, err: stderr };
  };
  const disks = [
    ['etc', paths.etc],
    ['data', paths.data],
  ] as const;
  let kept = 0;
  const empty = (folder: string) => {
    for (const entry of readdirSync(folder)) rmSync(join(folder, entry), { recursive: true, force: true });
  };
  return {
    name,
    address,
    run: (...argv) => runWith('', ...argv),
    runWith,
    async runAndKillAt(line, input, ...argv) {
      const [program, ...rest] = formatNodeCommand(lab, name, command(argv)) as [string, ...string[]];
      const child = spawn(program, rest, { stdio: ['pipe', 'ignore', 'pipe'] });
      child.stdin.on('error', () => {});
      child.stdin.end(input);
      await killAt(child, line);
    },
    listSettings: () => readdirSync(paths.etc, { recursive: true }).map(String).toSorted(),
    read(path) {
      const folder = path.startsWith('/etc/holdfast/') ? paths.etc : paths.data;
      return readFileSync(join(folder, path.replace(/^\/(etc|var\/lib)\/holdfast\//, '')), 'utf8');
    },
    keep() {
      kept += 1;
      const shelf = join(paths.data, '..', `shelf${kept}`);
      for (const [name, folder] of disks) cpSync(folder, join(shelf, name), { recursive: true });
      return () => {
        for (const [name, folder] of disks) cpSync(join(shelf, name), folder, { recursive: true });
      };
    },
    wipe() {
      for (const folder of [paths.etc, paths.data]) empty(folder);
      mkdirSync(join(paths.data, 'log'), { recursive: true });
    },
  };
}

function killAt(child: ChildProcess, line: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const said: string[] = [];
  let killed = false;
  createInterface({ input: child.stderr! }).on('line', (text) => {
    said.push(text);
    if (!text.startsWith(line)) return;
    killed = true;
    child.kill('SIGKILL');
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 120_000);
  child.once('close', () => {
    clearTimeout(timer);
    if (killed) resolve();
    else reject(new Error(`the command ended before it said ${JSON.stringify(line)}:\n${said.join('\n')}`));
  });
  return promise;
}
