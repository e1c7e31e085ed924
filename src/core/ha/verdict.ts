import { limits } from '#base/limits.ts';
import { isAlive, type ClusterView, type GuestView, type NodeView } from '#core/ha/cluster-view.ts';
import type { ClaimProof } from '#core/ha/records.ts';
import type { Finding, Severity } from '#core/ha/verdict-finding.ts';
import { judgeDisarm, judgeManagedGuest, judgeManagedNode, nextForFailed, nextForOverdue } from '#core/ha/verdict-managed.ts';
import { formatDuration } from '#core/text/duration.ts';

export type Verdict = { level: 'ok' | 'degraded' | 'down'; sentence: string; findings: Finding[] };

const severities: Severity[] = ['down', 'degraded', 'note'];

/**
 * Judges a view. Findings are ordered by severity, then by how far they reach: store, manager, nodes, guests, copies, tails; then come `further` ones, of what
 * the view does not show.
 */
export function judge(view: ClusterView, further: readonly Finding[] = []): Verdict {
  const found = [...(view.readable ? judgeReadable(view) : judgeUnreadable(view)), ...further];
  const findings = severities.flatMap((severity) => found.filter((finding) => finding.severity === severity));
  const serious = findings.filter((finding) => finding.severity !== 'note');
  const worst = serious[0];
  if (worst === undefined || worst.severity === 'note') {
    return { level: 'ok', sentence: `${praise(view)}${findings.length > 0 ? ` ${countNotes(findings.length)}` : ''}`, findings };
  }
  const second = serious[1] === undefined ? '' : `; ${serious[1].text}`;
  const more = serious.length > 2 ? ` (and ${serious.length - 2} more)` : '';
  return { level: worst.severity, sentence: `${worst.text}${second}${more}. Next: ${worst.next}.`, findings };
}

/** The proof on which a permit was revoked, for people. */
export function formatProof(proof: ClaimProof): string {
  switch (proof.kind) {
    case 'silence':
      return `silent for ${formatDuration(proof.silentMs)}, seen by ${proof.observer}`;
    case 'power-off':
      return `its management controller says off, seen by ${proof.observer}`;
    case 'new-boot':
      return 'it booted anew';
    case 'released':
      return `released: ${proof.reason}`;
  }
}

function judgeStore(view: ClusterView): Finding[] {
  const silent = view.members.filter((member) => !member.healthy).map((member) => member.name);
  if (silent.length === 0) return [];
  const healthy = view.members.length - silent.length;
  const text = `${healthy} of ${view.members.length} members of the store work (not: ${silent.join(', ')})`;
  const missing = Math.floor(view.members.length / 2) + 1 - healthy;
  // A store that is down because its node is: the node's own finding says it better.
  const explained = new Set(view.nodes.filter((node) => !isAlive(node.condition)).map((node) => node.name));
  if (missing <= 0 && silent.every((name) => explained.has(name))) return [];
  if (missing <= 0) return [{ severity: 'degraded', text, next: `bring the store on ${silent.join(' and ')} back` }];
  const which = missing === silent.length ? silent.join(' and ') : `${missing} of ${silent.join(', ')}`;
  const next = `bring the store on ${which} back; until then guests stay frozen and nothing is decided`;
  return [{ severity: 'down', text: `there is no quorum: ${text}`, next }];
}

function judgeReadable(view: ClusterView): Finding[] {
  const cluster = [...judgeStore(view), ...judgeManager(view), ...judgeDisarm(view)];
  const nodes = view.nodes.flatMap((node) => [...judgeNode(node, view), ...judgeManagedNode(node, view.ha)]);
  return [...cluster, ...nodes, ...judgeGuests(view), ...judgeTails(view)];
}

function judgeUnreadable(view: ClusterView): Finding[] {
  const quorum = judgeStore(view).filter((finding) => finding.severity === 'down');
  if (quorum.length > 0) return quorum;
  return [{ severity: 'down', text: 'the store answers no read', next: 'look again in some seconds, then at the log of etcd' }];
}

function judgeManager(view: ClusterView): Finding[] {
  if (view.nodes.length === 0) {
    return [
      { severity: 'degraded', text: 'no node has joined the cluster yet', next: 'look whether guard and agent run on the nodes' },
    ];
  }
  if (view.manager === null) {
    return [{ severity: 'degraded', text: 'no node leads', next: 'look why no agent takes the lead (`holdfast node list`)' }];
  }
  if (view.manager.alive) return [];
  const text = `the manager ${view.manager.node} is silent`;
  return [{ severity: 'degraded', text, next: 'wait some seconds for another node to take the lead, then look again' }];
}

function judgeNode(node: NodeView, view: ClusterView): Finding[] {
  const { condition, name } = node;
  if (condition.kind === 'fenced') {
    const text = `${name} has been down for ${formatDuration(condition.forMs)} (${formatProof(condition.proof)})`;
    return [{ severity: 'degraded', text, next: `find out what happened to ${name} and power it on` }];
  }
  if (condition.kind === 'silent') {
    const since = condition.forMs === null ? '' : ` for ${formatDuration(condition.forMs)}`;
    return [
      {
        severity: 'degraded',
        text: `${name} has been silent${since}`,
        next: condition.disarmed ? bringBack(name) : `wait for its return or its claim, then look again`,
      },
    ];
  }
  if (condition.kind === 'joining') {
    return [{ severity: 'degraded', text: `${name} holds no permit`, next: `look whether its guard runs` }];
  }
  return [...judgePhase(node, view), ...judgeParts(node)];
}

/** Its guests may run on unguarded, so only its return or a controller that says off can end the silence of a disarmed node. */
function bringBack(node: string): string {
  return `bring ${node} back: it was disarmed, so no silence will claim it (only a controller that says it is off)`;
}

function judgePhase(node: NodeView, { ha }: ClusterView): Finding[] {
  if (node.condition.kind === 'frozen') {
    const text = `${node.name} has its guests frozen`;
    return [{ severity: 'degraded', text, next: 'look again in some seconds; if it stays, check its network' }];
  }
  // Said once of the whole cluster.
  if (node.condition.kind === 'disarmed' && ha.disarm !== null) return [];
  if (node.condition.kind === 'disarmed') {
    const text = `${node.name} is disarmed: its guests are not protected`;
    return [
      { severity: 'degraded', text, next: 'the cluster is armed: look again in some seconds, then at the log of its guard' },
    ];
  }
  if (node.condition.kind === 'releasing') {
    return [{ severity: 'degraded', text: `${node.name} is giving its guests up`, next: 'look again in some seconds' }];
  }
  return [];
}

function judgeParts(node: NodeView): Finding[] {
  const findings = node.problems.map((problem): Finding => ({
    severity: 'degraded',
    text: `${node.name}: ${problem}`,
    next: `mend that on ${node.name}`,
  }));
  if (node.agentSilentMs === null || node.agentSilentMs > limits.agentSilentShownMs) {
    const since = node.agentSilentMs === null ? 'since its boot' : `for ${formatDuration(node.agentSilentMs)}`;
    findings.push({
      severity: 'degraded',
      text: `the agent on ${node.name} has been silent ${since}`,
      next: `look at the agent's log on ${node.name}`,
    });
  }
  const isMissing = node.introduced && node.watchdog === null && node.problems.length === 0;
  if (isMissing && node.condition.kind !== 'disarmed') {
    findings.push({ severity: 'degraded', text: `${node.name} has no watchdog`, next: `give ${node.name} a watchdog device` });
  }
  return findings;
}

function judgeGuests(view: ClusterView): Finding[] {
  return view.guests.flatMap((guest) => {
    if (guest.want === 'ignored') return [];
    const run = guest.want === 'started' ? judgeRun(guest, view) : [];
    // Who does not run although it should has said it all.
    const managed = run.length === 0 ? judgeManagedGuest(guest) : [];
    return [...run, ...managed, ...(guest.want === 'started' ? judgeCopies(guest, view) : [])];
  });
}

function judgeRun(guest: GuestView, view: ClusterView): Finding[] {
  if (guest.state === 'running') return [];
  const text = `guest ${nameOf(guest)} does not run (${guest.state}: ${guest.because})`;
  return [{ severity: 'down', text, next: nextForGuest(guest, view) }];
}

function nextForGuest(guest: GuestView, view: ClusterView): string {
  if (guest.ha?.state.kind === 'failed') return nextForFailed(guest);
  if (guest.ha !== null && guest.ha.leftMs !== null && guest.ha.leftMs < 0) return nextForOverdue(guest);
  switch (guest.state) {
    case 'failed':
      return `read \`holdfast guest serial ${guest.vmid}\` and the agent's log on ${guest.home}`;
    case 'lost':
      return `watch \`holdfast ha events\`; the guest is placed as soon as a node with a good copy can take it`;
    case 'frozen': {
      const home = view.nodes.find((node) => node.name === guest.home)?.condition;
      if (home?.kind === 'silent' && home.disarmed) return bringBack(guest.home);
      return guest.ha?.state.kind === 'frozen'
        ? `it waits for ${guest.ha.node} on purpose; see \`holdfast ha show ${guest.vmid}\``
        : `wait for ${guest.home} to return or to be claimed; nobody has to do anything`;
    }
    default:
      return `look again in some seconds; \`holdfast guest show ${guest.vmid}\` tells what it waits for`;
  }
}

function judgeCopies(guest: GuestView, view: ClusterView): Finding[] {
  if (!guest.replicated) {
    return [
      {
        severity: 'degraded',
        text: `guest ${nameOf(guest)} is not replicated`,
        next: `\`holdfast replication set ${guest.vmid} --on\``,
      },
    ];
  }
  if (view.nodes.length < 2) return [];
  const good = guest.copies.flatMap((copy) => (copy.reachable && copy.newest !== null ? [copy.newest.ageMs] : []));
  const reachable = guest.copies.filter((copy) => copy.reachable);
  const next = `look at \`holdfast replication list\` and the agent's log on ${guest.home}`;
  if (good.length === 0)
    return [{ severity: 'degraded', text: `guest ${nameOf(guest)} has no verified copy on another node`, next }];
  const missing = reachable.filter((copy) => copy.newest === null).map((copy) => copy.node);
  const findings: Finding[] = [];
  if (missing.length > 0) {
    findings.push({ severity: 'degraded', text: `guest ${nameOf(guest)} has no copy on ${missing.join(', ')} yet`, next });
  }
  const lateMs = 2 * guest.intervalMs + limits.copyLateGraceMs;
  const late = reachable.filter((copy) => copy.newest !== null && copy.newest.ageMs > lateMs).map((copy) => copy.node);
  const oldest = Math.max(...good);
  if (late.length > 0) {
    const text = `the copy of guest ${nameOf(guest)} on ${late.join(', ')} is late (${formatDuration(oldest)} old, wanted ${formatDuration(guest.intervalMs)})`;
    findings.push({ severity: 'degraded', text, next });
  }
  if (guest.maxDataAgeMs !== null && Math.min(...good) > guest.maxDataAgeMs) {
    const text = `guest ${nameOf(guest)} could not be recovered now: every copy is older than its limit of ${formatDuration(guest.maxDataAgeMs)}`;
    findings.unshift({ severity: 'degraded', text, next });
  }
  return findings;
}

function judgeTails(view: ClusterView): Finding[] {
  return view.tails.map((tail): Finding => {
    const text = `${tail.name} of guest ${tail.vmid} is kept on ${tail.node}: writes that reached no copy`;
    return { severity: 'note', text, next: `export or release it (\`holdfast replication tails\`)` };
  });
}

/** The sentence for a cluster with nothing serious to say. */
function praise(view: ClusterView): string {
  const wanted = view.guests.filter((guest) => guest.want === 'started');
  const serving = view.nodes.filter((node) => isAlive(node.condition)).length;
  if (wanted.length === 0) {
    const idle = view.guests.length === 0 ? 'there is no guest yet' : `no guest is wanted running (${view.guests.length} known)`;
    return `All ${serving} nodes serve; ${idle}.`;
  }
  const counts = wanted.map((guest) => guest.copies.filter((copy) => copy.reachable && copy.newest !== null).length);
  const ages = wanted.flatMap((guest) => guest.copies.flatMap((copy) => (copy.newest === null ? [] : [copy.newest.ageMs])));
  const fewest = Math.min(...counts);
  const atLeast = counts.every((count) => count === fewest) ? '' : 'at least ';
  const run = wanted.length === 1 ? `Guest ${nameOf(wanted[0])} runs and has` : `All ${wanted.length} guests run, each has`;
  if (ages.length === 0) return `${run} no verified copy: there is no other node.`;
  const nodes = `${atLeast}${fewest} other ${fewest === 1 ? 'node' : 'nodes'}`;
  return `${run} a verified copy on ${nodes}, oldest data ${formatDuration(Math.max(...ages))}.`;
}

function countNotes(count: number): string {
  return count === 1 ? 'One thing is worth a look.' : `${count} things are worth a look.`;
}

function nameOf(guest: GuestView | undefined): string {
  return guest === undefined ? '' : `${guest.vmid} ${guest.name}`;
}
