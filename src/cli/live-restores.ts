import { isAlive, type ClusterView } from '#core/ha/cluster-view.ts';
import { prefixes } from '#core/ha/keys.ts';
import type { RequestRecord } from '#core/ha/requests.ts';
import type { Finding } from '#core/ha/verdict-finding.ts';
import { listRecords } from '#cli/records.ts';
import { formatProgress } from '#cli/request-run.ts';
import type { Session } from '#cli/session.ts';

/** Guests that live on disks of which not all is there: what the next loss would cost, and what to do when it has come. */
export async function judgeLiveRestores(session: Session, view: Pick<ClusterView, 'nodes'>): Promise<Finding[]> {
  const requests = await listRecords<RequestRecord>(session, prefixes.requests);
  return requests.flatMap((request): Finding[] => {
    if (request.kind !== 'guest-restore' || request.live !== true || request.state !== 'running') return [];
    const { vmid, node, progress } = request;
    const home = view.nodes.find(({ name }) => name === node);
    if (home !== undefined && isAlive(home.condition)) {
      const text = `the restore of guest ${vmid} is under way, and no other node has a copy: ${formatProgress(progress)}`;
      return [{ severity: 'degraded', text, next: `wait for it; \`holdfast restore abort ${vmid}\` takes the guest away again` }];
    }
    const text = `guest ${vmid} was being restored on ${node}, which is away: not all of its disks is there, and no other node has a copy`;
    const next = `bring ${node} back, and it goes on where it was; if ${node} is lost for good, restore it again under another number`;
    return [{ severity: 'degraded', text, next }];
  });
}
