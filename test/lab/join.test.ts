import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { formatJoinCode, parseJoinCode } from '#core/cluster/join-code.ts';
import { plug, startService } from '#lab/lab.ts';
import { eventually, withLab } from './lab-fixture.ts';
import { heldServices, openMachine, type Ended, type Machine } from './join-fixture.ts';

const fit = ['--profile', 'lenient', '--accelerator', 'tcg'];

function succeed(ended: Ended, what: string): Ended {
  assert.equal(ended.code, 0, `${what} ended with ${ended.code}:\n${ended.err}\n${ended.out}`);
  return ended;
}

function tell(t: TestContext, machine: Machine, command: string, ended: Ended): void {
  t.diagnostic(`${machine.name}# ${command}\n${ended.err}${ended.out}`);
}

async function makeCode(member: Machine, ...options: string[]): Promise<string> {
  return succeed(await member.run('join-code', ...options), 'join-code').out.trim();
}

/** Runs the command again and again, killed each time one step later, then to its end. */
async function runKilledAtEach(machine: Machine, steps: string[], input: string, ...argv: string[]): Promise<Ended> {
  for (const step of steps) await machine.runAndKillAt(step, input, ...argv);
  return succeed(await machine.runWith(input, ...argv), argv.join(' '));
}

async function serving(member: Machine): Promise<string[]> {
  const { out } = succeed(await member.run('node', 'list', '--json'), 'node list');
  const nodes = JSON.parse(out) as { name: string; condition: { kind: string } }[];
  return nodes.filter(({ condition }) => condition.kind === 'serving').map(({ name }) => name);
}

async function storeMembers(member: Machine): Promise<string[]> {
  // Its exit code tells more than that it could be read.
  const { code, out, err } = await member.run('status', '--json');
  assert.ok([0, 20, 21].includes(code), err);
  const { members } = JSON.parse(out) as { members: { name: string; healthy: boolean }[] };
  return members
    .filter(({ healthy }) => healthy)
    .map(({ name }) => name)
    .toSorted();
}

/** What a list shows is a moment: an election or a disk's hiccup passes, a wrong list stays. */
async function shows(what: string, read: () => Promise<string[]>, wanted: string[]): Promise<void> {
  let seen: string[] = [];
  const untilMs = performance.now() + 20_000;
  do {
    seen = await read();
    if (isDeepStrictEqual(seen, wanted)) return;
  } while (performance.now() < untilMs);
  assert.deepEqual(seen, wanted, what);
}

function membersAre(member: Machine, wanted: string[]): Promise<void> {
  return shows(`the store's healthy members as ${member.name} tells them`, () => storeMembers(member), wanted);
}

function servingAre(member: Machine, wanted: string[]): Promise<void> {
  return shows(`the serving nodes as ${member.name} tells them`, () => serving(member), wanted);
}

test('a cluster is founded, joined, left and repaired by its commands, cut off at every step', { timeout: 900_000 }, (t) =>
  withLab(t, { nodes: 4, bmc: false, services: heldServices() }, async (lab) => {
    const machines = ['n1', 'n2', 'n3', 'n4'].map((name) => openMachine(lab.name, name));
    for (const machine of machines) machine.wipe();
    const [n1, n2, n3, n4] = machines as [Machine, Machine, Machine, Machine];
    await foundFirst(t, n1);
    await refuseBadCodes(t, n1, n2);
    await joinPlain(t, n1, n3, await joinCutOff(t, n1, n2));
    await joinWitness(t, n1, n4);
    await membersAre(n2, ['n1', 'n2', 'n3', 'n4']);
    await servingAre(n2, ['n1', 'n2', 'n3']);
    await eventually('n1 learns the members that came after it', 60_000, () => {
      const known = n1.read('/var/lib/holdfast/store-members.json');
      return [n2, n3, n4].every(({ address }) => known.includes(address));
    });
    await leaveWitness(t, n1, n4);
    await replaceDead(t, lab.name, n1, n2);
    await leaveNode(t, n1, n3);
  }),
);

async function foundFirst(t: TestContext, n1: Machine): Promise<void> {
  const bad = await n1.run('init', '--check', '--watchdog', '/dev/nothing', '--address', '10.9.9.9', '--accelerator', 'tcg');
  tell(t, n1, 'holdfast init --check --watchdog /dev/nothing --address 10.9.9.9', bad);
  assert.equal(bad.code, 4, bad.err);
  assert.match(bad.err, /\/dev\/nothing cannot be used[^]*10\.9\.9\.9 is no address of this machine/);
  assert.deepEqual(n1.listSettings(), []);

  const steps = ['making the cluster', 'writing the settings', 'starting the store', 'founding the cluster', 'starting guard'];
  const founded = await runKilledAtEach(n1, steps, '', 'init', '--cluster-name', 'Clinic', ...fit);
  tell(t, n1, 'holdfast init --cluster-name Clinic --profile lenient', founded);
  assert.match(founded.out, /cluster Clinic is founded; n1 serves/);
  await servingAre(n1, ['n1']);
  const id = /cluster = "(.*)"/.exec(n1.read('/etc/holdfast/node.toml'))?.[1];
  const again = succeed(await n1.run('init', '--cluster-name', 'Clinic', ...fit), 'init again');
  assert.match(again.err, /is node n1 of cluster Clinic already/);
  assert.equal(/cluster = "(.*)"/.exec(n1.read('/etc/holdfast/node.toml'))?.[1], id);
  const other = await n1.run('init', '--name', 'other', ...fit);
  assert.equal(other.code, 4);
  assert.match(other.err, /name was n1 then and is other now/);
}

async function refuseBadCodes(t: TestContext, n1: Machine, n2: Machine): Promise<void> {
  const good = await makeCode(n1);
  const refused = async (code: string, kind: number, words: RegExp) => {
    const ended = await n2.runWith(`${code}\n`, 'join', ...fit);
    tell(t, n2, 'holdfast join', ended);
    assert.equal(ended.code, kind, ended.err);
    assert.match(ended.err, words);
    assert.deepEqual(n2.listSettings(), []);
  };
  await refused(`${good.slice(0, 30)}${good[30] === '0' ? '1' : '0'}${good.slice(31)}`, 2, /a letter of it is wrong or missing/);
  const parts = parseJoinCode(good);
  await refused(
    formatJoinCode({ ...parts, fingerprint: 'ab'.repeat(32) }),
    6,
    /not of the cluster that made this code; nothing was sent/,
  );
  await refused(formatJoinCode({ ...parts, secret: '0'.repeat(32) }), 6, /this code is not good \(any more\)/);
  await refused(formatJoinCode({ ...parts, expiresAtMs: Date.now() - 1_000 }), 6, /it expired at .*make a new one/);
  // The machine's own clock says that it is good still; the member that made it knows better.
  const short = parseJoinCode(await makeCode(n1, '--valid', '1s'));
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  await refused(formatJoinCode({ ...short, expiresAtMs: Date.now() + 60_000 }), 6, /this code is not good \(any more\)/);
  await refused(await makeCode(n1, '--witness'), 2, /it is for a witness; join with --witness/);
}

async function joinCutOff(t: TestContext, n1: Machine, n2: Machine): Promise<string> {
  const code = await makeCode(n1);
  const check = succeed(await n2.runWith(`${code}\n`, 'join', '--check', ...fit), 'join --check');
  assert.match(check.out, /nothing was changed and the code is still good/);
  assert.deepEqual(n2.listSettings(), []);
  const steps = [
    'looking at',
    'enrolling',
    'asking the store',
    'starting the store',
    'waiting until the new member',
    'writing the settings',
    'starting guard',
  ];
  const joined = await runKilledAtEach(n2, steps, `${code}\n`, 'join', ...fit);
  tell(t, n2, 'holdfast join (the last of several runs that were cut off)', joined);
  assert.match(joined.out, /n2 is a node of cluster Clinic/);
  await membersAre(n1, ['n1', 'n2']);
  return code;
}

async function joinPlain(t: TestContext, n1: Machine, n3: Machine, usedCode: string): Promise<void> {
  const stolen = await n3.runWith(`${usedCode}\n`, 'join', ...fit);
  tell(t, n3, 'holdfast join (with the code that n2 used)', stolen);
  assert.equal(stolen.code, 6);
  assert.match(stolen.err, /this code was used already, by n2/);
  assert.deepEqual(n3.listSettings(), []);
  // As an argument: the command hides it, and asks for no other.
  const joined = succeed(await n3.run('join', await makeCode(n1), ...fit), 'join');
  tell(t, n3, 'holdfast join CODE', joined);
  await servingAre(n3, ['n1', 'n2', 'n3']);
}

async function joinWitness(t: TestContext, n1: Machine, n4: Machine): Promise<void> {
  const joined = succeed(await n4.runWith(`${await makeCode(n1, '--witness')}\n`, 'join', '--witness'), 'join --witness');
  tell(t, n4, 'holdfast join --witness', joined);
  assert.deepEqual(
    n4.listSettings().filter((file) => /node\.toml|ca\.key/.test(file)),
    [],
  );
}

async function leaveWitness(t: TestContext, n1: Machine, n4: Machine): Promise<void> {
  const wrong = await n4.run('leave', 'n3');
  assert.equal(wrong.code, 4);
  assert.match(wrong.err, /this machine is n4; run it on n3 itself/);
  tell(t, n4, 'holdfast leave n4', succeed(await n4.run('leave', 'n4'), 'leave'));
  await membersAre(n1, ['n1', 'n2', 'n3']);
}

/** The plug is pulled; only once its permit is claimed may a new machine take its name. */
async function replaceDead(t: TestContext, lab: string, n1: Machine, n2: Machine): Promise<void> {
  await plug(lab, 'n2', 'off');
  const early = await n1.run('node', 'replace', 'n2');
  tell(t, n1, 'holdfast node replace n2', early);
  assert.equal(early.code, 4);
  assert.match(early.err, /its permit is not claimed/);
  let replaced = early;
  await eventually('n2 is claimed and replaced', 120_000, async () => {
    replaced = await n1.run('node', 'replace', 'n2');
    return replaced.code === 0;
  });
  tell(t, n1, 'holdfast node replace n2', replaced);
  await membersAre(n1, ['n1', 'n3']);
  const former = n2.keep();
  n2.wipe();
  await plug(lab, 'n2', 'on');
  const code = await makeCode(n1);
  await eventually('the new machine has power', 30_000, async () => (await n2.run('--help').catch(() => null))?.code === 0);
  tell(t, n2, 'holdfast join', succeed(await n2.runWith(`${code}\n`, 'join', ...fit), 'join again'));
  await membersAre(n1, ['n1', 'n2', 'n3']);
  await formerStaysAway(t, lab, n1, n2, former);
  succeed(await n1.run('node', 'forget', 'n2', '--disks-accounted-for'), 'forget');
  await servingAre(n1, ['n1', 'n2', 'n3']);
}

/** The machine that was declared dead is switched on after all, with its keys and settings: it must not take its successor's permit. */
async function formerStaysAway(t: TestContext, lab: string, n1: Machine, n2: Machine, former: () => void): Promise<void> {
  const successor = n2.keep();
  await plug(lab, 'n2', 'off');
  n2.wipe();
  former();
  await plug(lab, 'n2', 'on');
  await eventually('the former n2 has power', 30_000, async () => (await n2.run('--help').catch(() => null))?.code === 0);
  await startService(lab, 'n2', 'guard');
  await startService(lab, 'n2', 'agent');
  await eventually('the former n2 is told that it is none any more', 60_000, () => {
    const log = n2.read('/var/lib/holdfast/log/agent.log');
    return log.includes('another machine has taken the name n2');
  });
  await servingAre(n1, ['n1', 'n3']);
  t.diagnostic('the former n2 was switched on and took no permit');
  await plug(lab, 'n2', 'off');
  n2.wipe();
  successor();
  await plug(lab, 'n2', 'on');
  await eventually('the new n2 has power', 30_000, async () => (await n2.run('--help').catch(() => null))?.code === 0);
  for (const service of ['etcd', 'guard', 'relay', 'agent']) await startService(lab, 'n2', service);
  await eventually('the new n2 serves again', 120_000, async () => (await serving(n1)).includes('n2'));
}

async function leaveNode(t: TestContext, n1: Machine, n3: Machine): Promise<void> {
  const refused = await n3.run('leave', 'n3');
  tell(t, n3, 'holdfast leave n3', refused);
  assert.equal(refused.code, 4);
  assert.match(refused.err, /it is not drained/);
  succeed(await n3.run('ha', 'drain', 'n3'), 'drain');
  await n3.runAndKillAt('deleting the records', '', 'leave', 'n3');
  tell(t, n3, 'holdfast leave n3', succeed(await n3.run('leave', 'n3'), 'leave'));
  await membersAre(n1, ['n1', 'n2']);
  await servingAre(n1, ['n1', 'n2']);
  assert.deepEqual(
    n3.listSettings().filter((file) => /pki|toml|setup/.test(file)),
    [],
  );
}
