import { readlinkSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { AppError } from '#base/error.ts';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { chooseLab, runAttached } from '#cli/lab-place.ts';
import type { Reach } from '#cli/world.ts';
import { formatClientCommand, labContext, type LabContext } from '#lab/lab.ts';
import { readLabSpec } from '#lab/lab-spec.ts';

const mainFile = fileURLToPath(new URL('main.ts', import.meta.url));

/**
 * The way to a lab's cluster. Its members are reachable only in the lab's client namespace: outside it, the way is to run `argv`
 * again inside. Raises AppError missing when no lab is up.
 */
export function reachLab(name: string | undefined, argv: string[]): Reach {
  const lab = chooseLab(name);
  if (readLabSpec(lab) === null) {
    const server = name === undefined ? 'this machine has no /etc/holdfast/node.toml and ' : '';
    throw new AppError('missing', `${server}lab ${lab} is not up on this machine; start it with: holdfast lab up`);
  }
  const context = labContext(lab);
  if (!isInside(context)) {
    const again = [process.execPath, mainFile, '--lab', lab, ...argv];
    return { kind: 'elsewhere', runAgain: () => runAttached(`lab ${lab}`, formatClientCommand(lab, again)) };
  }
  return {
    kind: 'here',
    place: { kind: 'lab', lab, dataDirectoryOf: (node) => dataDirectoryOf(context, node) },
    openStore: () => createEtcdStore({ endpoints: context.endpoints, tls: context.tls }),
  };
}

function isInside(context: LabContext): boolean {
  try {
    return readlinkSync('/proc/self/ns/net') === `net:[${statSync(context.clientNetnsFile).ino}]`;
  } catch (cause) {
    throw new AppError('unavailable', `lab ${context.name} has no network any more; clean up with: holdfast lab down`, { cause });
  }
}

function dataDirectoryOf(context: LabContext, name: string): string {
  const node = context.nodes.find((entry) => entry.name === name);
  if (node === undefined) throw new AppError('missing', `lab ${context.name} has no node ${name}`);
  return node.folders.data;
}
