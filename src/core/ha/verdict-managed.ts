import { isAlive, type ClusterView, type GuestView, type NodeView } from '#core/ha/cluster-view.ts';
import type { Finding } from '#core/ha/verdict-finding.ts';
import { formatDuration } from '#core/text/duration.ts';

/** What the manager's own memory gives people to do: disarmed, drained, quarantined, failed, overdue. */

/** The cluster is disarmed, or about to be. */
export function judgeDisarm({ ha: { disarm } }: ClusterView): Finding[] {
  if (disarm === null) return [];
  const stage = {
    waiting: 'is to be disarmed once nothing is recovered or moved',
    'in-force': 'is disarmed, but not every node has let go of its watchdog',
    complete: 'is disarmed',
  }[disarm.stage];
  const text = `the cluster ${stage} (${disarm.mode})${disarm.stage === 'waiting' ? '' : ': nobody is fenced or recovered'}`;
  return [{ severity: 'degraded', text, next: 'arm it when the work is done (`holdfast ha arm`)' }];
}

/** What keeps guests away from a node. */
export function judgeManagedNode({ name, ha, condition }: NodeView, { quarantine }: ClusterView['ha']): Finding[] {
  const findings: Finding[] = [];
  // Of a node that is down there is more to say than how it went.
  if (ha.agentMode !== 'active' && isAlive(condition)) {
    findings.push({
      severity: 'note',
      text: `${name} receives no guests: it is about to end (${ha.agentBecause ?? ha.agentMode})`,
      next: `end it, or \`holdfast node stay ${name}\``,
    });
  }
  if (ha.quarantined) {
    const claims = ha.claimedAgoMs.length;
    const often =
      claims === 0 ? '' : ` (claimed ${claims === 1 ? 'once' : `${claims} times`} in ${formatDuration(quarantine.windowMs)})`;
    findings.push({
      severity: 'degraded',
      text: `${name} receives no guests: it is quarantined${often}`,
      next: `find out what is wrong with ${name}, then \`holdfast ha release-quarantine ${name}\``,
    });
  }
  if (ha.drained) {
    const next = `\`holdfast ha undrain ${name}\` when the work is done`;
    findings.push({ severity: 'note', text: `${name} is drained: guests stay away from it`, next });
  }
  return findings;
}

/** A guest that runs, or is not wanted started, and that the manager cannot get on with. */
export function judgeManagedGuest(guest: GuestView): Finding[] {
  const { ha, vmid, name } = guest;
  if (ha === null) return [];
  if (ha.state.kind === 'failed') {
    const text = `guest ${vmid} ${name} failed (${ha.because}) and is left alone`;
    return [{ severity: 'degraded', text, next: nextForFailed(guest) }];
  }
  if (ha.leftMs === null || ha.leftMs > 0) return [];
  const text = `guest ${vmid} ${name} is ${ha.state.kind} for ${formatDuration(ha.forMs)}, ${formatDuration(-ha.leftMs)} too long (${ha.because})`;
  return [{ severity: 'degraded', text, next: nextForOverdue(guest) }];
}

/** What to do about a guest that failed: only `disabled` takes it out of that state. */
export function nextForFailed({ vmid, home, want }: GuestView): string {
  const cure = `read \`holdfast guest serial ${vmid}\` and the agent's log on ${home}, mend it, then \`holdfast ha set ${vmid} --want disabled\``;
  return want === 'started' ? `${cure} and after that \`--want started\`` : cure;
}

/** What to look at when a guest is longer in its state than it should. */
export function nextForOverdue({ vmid, ha }: GuestView): string {
  return `it waits for this: ${ha?.next.who}: ${ha?.next.next}; see \`holdfast ha show ${vmid}\``;
}
