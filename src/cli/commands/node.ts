import type { Command } from 'commander';
import { isIP } from 'node:net';
import { isAbsolute } from 'node:path';
import { AppError } from '#base/error.ts';
import { keys } from '#core/ha/keys.ts';
import type { BmcRecord, NodeInfo } from '#core/ha/records.ts';
import { parseChoice, parseWholeNumber } from '#core/text/fields.ts';
import { longTimeout, parseTimeout } from '#cli/command-options.ts';
import { addReplaceCommands } from '#cli/commands/setup.ts';
import { readView } from '#cli/commands/status.ts';
import { changeRecord, findNode, readRecord } from '#cli/records.ts';
import { performRequest } from '#cli/request-run.ts';
import { clusterActions, type Session } from '#cli/session.ts';
import { shutdownPolicies } from '#cli/setting-options.ts';
import { formatNodes } from '#cli/status-text.ts';
import type { CliWorld } from '#cli/world.ts';

type EndOptions = { powerOff?: boolean; reboot?: boolean; policy?: string; timeout: string };
type BmcOptions = { address: string; port: string; user: string; passwordFile: string; cipherSuite?: string };

const hostPattern = /^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,252}[a-zA-Z0-9])?$/;
// The longest user name IPMI 2.0 knows.
const userPattern = /^[\x21-\x7e]{1,16}$/;

/** Adds the group `node` to the program. */
export function addNodeCommands(program: Command, world: CliWorld, run: (code: number) => void): void {
  const group = program.command('node').description('the servers of the cluster');
  const act = clusterActions(world, run);
  group.command('list').description('all nodes and how they are').action(act(listNodes));
  group
    .command('show <node>')
    .description('one node: what it has, its permit, its controller')
    .action(act((session, [node]) => showNode(session, node ?? '')));
  group
    .command('end <node>')
    .description('prepare a node for power-off or reboot: its guests are dealt with as the policy says')
    .option('--power-off', 'it is to be powered off')
    .option('--reboot', 'it is to be rebooted')
    .option('--policy <policy>', `${shutdownPolicies.join(', ')}; left out: the cluster's setting`)
    .option('--timeout <duration>', 'how long to wait', longTimeout)
    .action(act((session, [node], options) => endNode(session, node ?? '', options as EndOptions)));
  group
    .command('stay <node>')
    .description('take `node end` back: the node serves again')
    .option('--timeout <duration>', 'how long to wait', longTimeout)
    .action(act((session, [node], { timeout }) => keepNode(session, node ?? '', String(timeout))));
  addReplaceCommands(group, world, run);
  const bmc = group.command('bmc').description("a server's management controller, asked when the server is silent");
  bmc
    .command('set <node>')
    .description('record how the controller of a node is reached (IPMI over LAN)')
    .requiredOption('--address <address>', 'its address, on another cable than the server if there is one')
    .option('--port <port>', 'its UDP port', '623')
    .requiredOption('--user <user>', 'a user who may switch the power')
    .requiredOption('--password-file <path>', 'a file with the password, at the same path on every node; only root may read it')
    .option('--cipher-suite <number>', 'of RMCP+, for controllers that do not tell theirs; left out: the best one that it tells')
    .action(act((session, [node], options) => setBmc(session, node ?? '', options as BmcOptions)));
  bmc
    .command('remove <node>')
    .description('forget the controller of a node')
    .action(act((session, [node]) => removeBmc(session, node ?? '')));
}

async function listNodes(session: Session): Promise<void> {
  const { nodes } = await readView(session);
  session.printer.show(nodes, () => formatNodes(nodes, session.printer));
}

async function showNode(session: Session, name: string): Promise<void> {
  const node = await findNode(session, name);
  const view = await readView(session);
  const state = view.nodes.find((entry) => entry.name === node);
  if (state === undefined) throw new AppError('missing', `showing node ${node}: it was removed meanwhile`);
  const info = await readRecord<NodeInfo>(session, keys.nodeInfo(node));
  const bmc = await readRecord<BmcRecord>(session, keys.nodeBmc(node));
  session.printer.show({ state, info, bmc }, () => `${formatNodes([state], session.printer)}\n${formatInfo(info, bmc)}`);
}

function formatInfo(info: NodeInfo | null, bmc: BmcRecord | null): string {
  const watchdog = info?.watchdog ?? null;
  const lines = [
    ['address', info === null ? 'not known' : `${info.address}, relay on port ${info.relayPort}`],
    ['hardware', info === null ? 'not known' : `${info.cores} cores, ${info.memoryMb} MiB`],
    ['hypervisor', info === null ? 'not known' : `QEMU ${info.qemuVersion}, ${info.accelerator}`],
    ['watchdog', watchdog === null ? 'none' : `${watchdog.device}, resets after ${watchdog.timeoutMs / 1_000} s`],
    [
      'controller',
      bmc === null ? 'none' : `${bmc.kind} ${bmc.user} at ${bmc.address}:${bmc.port}, password in ${bmc.passwordFile}`,
    ],
    [
      'disks of',
      info === null || info.primaryCopies.length === 0 ? 'no guest' : info.primaryCopies.map((copy) => copy.vmid).join(', '),
    ],
  ];
  return lines.map(([title, text]) => `${(title ?? '').padEnd(12)}${text}\n`).join('');
}

async function endNode(session: Session, name: string, options: EndOptions): Promise<void> {
  if ((options.powerOff === true) === (options.reboot === true)) {
    throw new AppError('invalid', 'power-off: say what the node is to be prepared for: either --power-off or --reboot');
  }
  const deadlineMs = parseTimeout(options.timeout);
  const policy = options.policy === undefined ? null : parseChoice(options.policy, 'policy', shutdownPolicies);
  const node = await findNode(session, name);
  const request = options.reboot === true ? 'reboot' : 'power-off';
  const result = await performRequest(session, node, { kind: 'node-end', request, policy }, deadlineMs);
  const keep = `to keep it up after all: holdfast node stay ${node}`;
  session.printer.show({ node, request, policy, result }, () => [...result, keep].map((line) => `${line}\n`).join(''));
}

async function keepNode(session: Session, name: string, timeout: string): Promise<void> {
  const deadlineMs = parseTimeout(timeout);
  const node = await findNode(session, name);
  const result = await performRequest(session, node, { kind: 'node-stay' }, deadlineMs);
  session.printer.show({ node, result }, () => result.map((line) => `${line}\n`).join(''));
}

async function setBmc(session: Session, name: string, options: BmcOptions): Promise<void> {
  const record = parseBmc(options);
  const node = await findNode(session, name);
  await changeRecord<BmcRecord>(session, keys.nodeBmc(node), `the controller of ${node}`, () => record);
  session.printer.show(record, () => `the controller of ${node} is ${record.user} at ${record.address}:${record.port}\n`);
}

function parseBmc(options: BmcOptions): BmcRecord {
  if (isIP(options.address) === 0 && !hostPattern.test(options.address)) {
    throw new AppError('invalid', `address: ${JSON.stringify(options.address)} is neither an IP address nor a host name`);
  }
  if (!userPattern.test(options.user))
    throw new AppError('invalid', `user: ${JSON.stringify(options.user)} is not a user name of IPMI (1 to 16 characters)`);
  if (!isAbsolute(options.passwordFile)) {
    throw new AppError(
      'invalid',
      `password-file: ${JSON.stringify(options.passwordFile)} is not an absolute path; every node reads it at that place`,
    );
  }
  const port = parseWholeNumber(options.port, 'port', 1, 65_535);
  const record: BmcRecord = {
    kind: 'ipmilan',
    address: options.address,
    port,
    user: options.user,
    passwordFile: options.passwordFile,
  };
  if (options.cipherSuite === undefined) return record;
  return { ...record, cipherSuite: parseWholeNumber(options.cipherSuite, 'cipher-suite', 0, 17) };
}

async function removeBmc(session: Session, name: string): Promise<void> {
  const node = await findNode(session, name);
  await changeRecord<BmcRecord>(session, keys.nodeBmc(node), `the controller of ${node}`, () => null);
  session.printer.show({ node, bmc: null }, () => `${node} has no controller any more\n`);
}
