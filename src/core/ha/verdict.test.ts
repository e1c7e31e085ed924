import assert from 'node:assert/strict';
import { test } from 'node:test';
import { unreadableView, type ClusterView, type GuestView, type NodeView } from '#core/ha/cluster-view.ts';
import { judge } from '#core/ha/verdict.ts';

function node(name: string, changes: Partial<NodeView> = {}): NodeView {
  return {
    name,
    condition: { kind: 'serving' },
    epoch: 3,
    agentSilentMs: 200,
    introduced: true,
    address: '10.77.0.1',
    accelerator: 'kvm',
    watchdog: { device: '/dev/watchdog0', timeoutMs: 6_000 },
    hasController: false,
    load: { guestsRunning: 1, memoryUsedMb: 512 },
    memoryMb: 8_192,
    problems: [],
    ha: { state: 'up', drained: false, quarantined: false, claimedAgoMs: [], agentMode: 'active', agentBecause: null },
    ...changes,
  };
}

function copy(name: string, ageMs: number | null, reachable = true): GuestView['copies'][number] {
  const cycle = { kind: 'delta', bytes: 1_000, tookMs: 300, pausedMs: 10 };
  return { node: name, reachable, newest: ageMs === null ? null : { point: { generation: 1, seq: 9 }, ageMs, cycle } };
}

function guest(vmid: number, changes: Partial<GuestView> = {}): GuestView {
  return {
    vmid,
    name: `vm${vmid}`,
    home: 'n1',
    generation: 1,
    want: 'started',
    state: 'running',
    because: 'runs',
    replicated: true,
    intervalMs: 60_000,
    maxDataAgeMs: null,
    ha: null,
    copies: [copy('n2', 41_000), copy('n3', 20_000)],
    ...changes,
  };
}

function view(changes: Partial<ClusterView> = {}): ClusterView {
  const members = ['n1', 'n2', 'n3'].map((name, index) => ({ name, endpoint: name, healthy: true, leader: index === 0 }));
  const manager = { node: 'n2', epoch: 1, alive: true };
  const nodes = [node('n1'), node('n2'), node('n3')];
  const ha: ClusterView['ha'] = { disarm: null, quarantine: { afterClaims: 5, windowMs: 3_600_000 } };
  return { readable: true, cluster: 'lab', members, manager, ha, nodes, guests: [guest(100), guest(101)], tails: [], ...changes };
}

const fencedForMs = (forMs: number): NodeView['condition'] => ({
  kind: 'fenced',
  forMs,
  proof: { kind: 'silence', heartbeatSeq: 7, silentMs: 15_000, claimMs: 15_000, observer: 'n3' },
});

test('a healthy cluster is praised with what protects it', () => {
  const verdict = judge(view());
  assert.deepEqual(verdict, {
    level: 'ok',
    sentence: 'All 2 guests run, each has a verified copy on 2 other nodes, oldest data 41 s.',
    findings: [],
  });
});

test('one guest with fewer copies is told as such', () => {
  const verdict = judge(view({ nodes: [node('n1'), node('n2')], guests: [guest(100, { copies: [copy('n2', 3_000)] })] }));
  assert.equal(verdict.sentence, 'Guest 100 vm100 runs and has a verified copy on 1 other node, oldest data 3.0 s.');
});

test('a guest that should run and does not comes before the node that took it along', () => {
  const nodes = [node('n1', { condition: fencedForMs(65_000) }), node('n2'), node('n3')];
  const lost = guest(101, { state: 'lost', because: 'no verified replica' });
  const verdict = judge(view({ nodes, guests: [guest(100, { home: 'n2', copies: [copy('n3', 900)] }), lost] }));
  assert.equal(verdict.level, 'down');
  assert.match(
    verdict.sentence,
    /^guest 101 vm101 does not run \(lost: no verified replica\); n1 has been down for 1 min 5 s \(silent for 15 s, seen by n3\)/,
  );
  assert.match(verdict.sentence, /Next: watch `holdfast ha events`/);
});

test('a lost node degrades the cluster, and its store is not complained about as well', () => {
  const nodes = [node('n1'), node('n2'), node('n3', { condition: fencedForMs(3_600_000) })];
  const guests = [guest(100, { copies: [copy('n2', 5_000), copy('n3', 3_700_000, false)] })];
  const members = view().members.map((member) => ({ ...member, healthy: member.name !== 'n3' }));
  const verdict = judge(view({ nodes, guests, members }));
  assert.equal(verdict.level, 'degraded');
  assert.equal(
    verdict.sentence,
    'n3 has been down for 1 h (silent for 15 s, seen by n3). Next: find out what happened to n3 and power it on.',
  );
});

test('each thing that lacks is found', () => {
  const cases: [Partial<ClusterView>, RegExp][] = [
    [{ manager: null }, /^no node leads/],
    [{ manager: null, nodes: [], guests: [] }, /^no node has joined the cluster yet/],
    [{ manager: { node: 'n2', epoch: 1, alive: false } }, /^the manager n2 is silent/],
    [{ nodes: [node('n1', { condition: { kind: 'silent', forMs: 4_000, disarmed: false } })] }, /^n1 has been silent for 4\.0 s/],
    [
      { nodes: [node('n1', { condition: { kind: 'silent', forMs: 4_000, disarmed: true } })] },
      /^n1 has been silent for 4\.0 s\. Next: bring n1 back: it was disarmed, so no silence will claim it/,
    ],
    [{ nodes: [node('n1', { condition: { kind: 'disarmed' }, watchdog: null })] }, /^n1 is disarmed: .* log of its guard\.$/],
    [{ nodes: [node('n1', { condition: { kind: 'frozen' } })] }, /^n1 has its guests frozen/],
    [{ nodes: [node('n1', { agentSilentMs: 20_000 })] }, /^the agent on n1 has been silent for 20 s/],
    [{ nodes: [node('n1', { agentSilentMs: null })] }, /^the agent on n1 has been silent since its boot/],
    [{ nodes: [node('n1', { watchdog: null })] }, /^n1 has no watchdog/],
    [{ nodes: [node('n1', { problems: ['disk full'] })] }, /^n1: disk full\. /],
    [{ guests: [guest(100, { replicated: false })] }, /^guest 100 vm100 is not replicated/],
    [{ guests: [guest(100, { copies: [copy('n2', null), copy('n3', null)] })] }, /has no verified copy on another node/],
    [{ guests: [guest(100, { copies: [copy('n2', null), copy('n3', 100)] })] }, /has no copy on n2 yet/],
    [
      { guests: [guest(100, { copies: [copy('n2', 131_000), copy('n3', 100)] })] },
      /on n2 is late \(2 min 11 s old, wanted 1 min\)/,
    ],
    [{ guests: [guest(100, { maxDataAgeMs: 10_000 })] }, /could not be recovered now/],
  ];
  for (const [changes, words] of cases) {
    const verdict = judge(view(changes));
    assert.equal(verdict.level, 'degraded', String(words));
    assert.match(verdict.sentence, words);
  }
});

test('members that do not answer: with a majority degraded, without it down', () => {
  const members = view().members.map((member, index) => ({ ...member, healthy: index > 0 }));
  assert.equal(judge(view({ members })).level, 'degraded');
  const minority = members.map((member, index) => ({ ...member, healthy: index > 1 }));
  const verdict = judge(unreadableView(minority));
  assert.equal(verdict.level, 'down');
  assert.match(
    verdict.sentence,
    /^there is no quorum: 1 of 3 members of the store work \(not: n1, n2\)\. Next: bring the store on 1 of n1, n2 back/,
  );
  assert.match(judge(unreadableView(view().members)).sentence, /^the store answers no read/);
});

test('a kept tail is worth a look and breaks nothing; a guest not wanted is no trouble', () => {
  const tail = { vmid: 100, node: 'n3', name: 'left-behind-g1', generation: 1, sizeBytes: 5, fromAtMs: 1, untilAtMs: 2 };
  const stopped = guest(102, { want: 'stopped', state: 'stopped' });
  const verdict = judge(view({ tails: [tail], guests: [guest(100), stopped] }));
  assert.equal(verdict.level, 'ok');
  assert.match(verdict.sentence, /One thing is worth a look\.$/);
  assert.equal(verdict.findings[0]?.severity, 'note');
});

test('a cluster without guests says so', () => {
  assert.equal(judge(view({ guests: [] })).sentence, 'All 3 nodes serve; there is no guest yet.');
});

function managed(changes: Partial<NonNullable<GuestView['ha']>>): NonNullable<GuestView['ha']> {
  const state = { kind: 'active' as const, seenRunning: true, recovered: false };
  const rest = { node: 'n1', orderId: 1, failedNodes: [], returnTo: null, command: null, because: 'it runs' };
  return {
    ...rest,
    state,
    forMs: 90_000,
    avoids: null,
    next: { who: 'agent', next: 'n1 starts it again if it ends' },
    leftMs: null,
    ...changes,
  };
}

test('a disarmed cluster is told once, not by every node', () => {
  const nodes = ['n1', 'n2', 'n3'].map((name) => node(name, { condition: { kind: 'disarmed' }, watchdog: null }));
  const disarm = { mode: 'hold' as const, stage: 'complete' as const };
  const { level, findings } = judge(view({ nodes, ha: { ...view().ha, disarm } }));
  assert.deepEqual(
    [level, findings.map((finding) => finding.text)],
    ['degraded', ['the cluster is disarmed (hold): nobody is fenced or recovered']],
  );
  assert.equal(judge(view({ nodes })).findings.length, 3);
});

test('a drained node and one that ends are worth a note, a quarantined one is missing when it is needed', () => {
  const quiet = view().nodes[0]?.ha;
  assert.ok(quiet !== undefined);
  const drained = judge(view({ nodes: [node('n1', { ha: { ...quiet, drained: true } }), node('n2'), node('n3')] }));
  assert.deepEqual([drained.level, drained.findings[0]?.next], ['ok', '`holdfast ha undrain n1` when the work is done']);
  const ending = { ...quiet, agentMode: 'shutdown' as const, agentBecause: 'policy failover: guests start elsewhere' };
  const ends = judge(view({ nodes: [node('n1', { ha: ending }), node('n2'), node('n3')] }));
  assert.deepEqual(
    [ends.level, ends.findings[0]?.text, ends.findings[0]?.next],
    [
      'ok',
      'n1 receives no guests: it is about to end (policy failover: guests start elsewhere)',
      'end it, or `holdfast node stay n1`',
    ],
  );
  const ended = [node('n1', { ha: ending, condition: fencedForMs(5_000) }), node('n2'), node('n3')];
  assert.equal(judge(view({ nodes: ended })).findings.length, 1);
  const ha = { ...quiet, quarantined: true, claimedAgoMs: [60_000, 30_000] };
  const kept = judge(view({ nodes: [node('n1', { ha }), node('n2'), node('n3')] }));
  assert.deepEqual(
    [kept.level, kept.findings[0]?.text],
    ['degraded', 'n1 receives no guests: it is quarantined (claimed 2 times in 1 h)'],
  );
  assert.match(kept.findings[0]?.next ?? '', /ha release-quarantine n1/);
});

test('a failed guest says how it is taken up again, whether it is wanted or not', () => {
  const ha = managed({ state: { kind: 'failed' }, because: 'it did not start on n1, n2', leftMs: -90_000 });
  const wanted = judge(view({ guests: [guest(100, { state: 'failed', because: ha.because, ha })] }));
  assert.deepEqual([wanted.level, wanted.findings.length], ['down', 1]);
  assert.match(wanted.findings[0]?.next ?? '', /`holdfast ha set 100 --want disabled` and after that `--want started`$/);
  const idle = judge(view({ guests: [guest(100, { want: 'stopped', state: 'failed', because: ha.because, ha })] }));
  assert.deepEqual(
    [idle.level, idle.findings[0]?.text],
    ['degraded', 'guest 100 vm100 failed (it did not start on n1, n2) and is left alone'],
  );
});

test('a state that lasts too long is told with what it waits for, once', () => {
  const late = managed({
    state: { kind: 'moving-cold', to: 'n2' },
    forMs: 1_200_000,
    next: { who: 'agent', next: 'n1 moves it to n2' },
    leftMs: -300_000,
    because: 'a move was asked for',
  });
  const runs = judge(view({ guests: [guest(100, { ha: late })] }));
  assert.deepEqual(
    runs.findings.map((finding) => finding.text),
    ['guest 100 vm100 is moving-cold for 20 min, 5 min too long (a move was asked for)'],
  );
  assert.match(runs.findings[0]?.next ?? '', /it waits for this: agent: n1 moves it to n2/);
  const down = judge(view({ guests: [guest(100, { state: 'waiting', because: 'it is on its way to n2', ha: late })] }));
  assert.deepEqual([down.level, down.findings.length], ['down', 1]);
  assert.match(down.findings[0]?.next ?? '', /n1 moves it to n2/);
  assert.equal(judge(view({ guests: [guest(100, { ha: managed({ leftMs: 5_000 }) })] })).findings.length, 0);
});
