import { type Client, createClient } from '@connectrpc/connect';
import { limits } from '#base/limits.ts';
import type { CallOptions, StoreMember } from '#ports/store.ts';
import type { EtcdMember, EtcdMembers } from './etcd-members.ts';
import { Cluster, Maintenance, type Member, type StatusResponse } from './gen/etcd_pb.js';

type Health = { endpoint: string; status: StatusResponse | null; listed: Member[] };

/**
 * Asks each configured endpoint for its own view, all at once. Members that are in no configured endpoint are shown by the
 * address they advertise, unhealthy, since nobody here can ask them.
 */
export async function listHealth(members: EtcdMembers, options: CallOptions = {}): Promise<StoreMember[]> {
  const untilMs = performance.now() + (options.deadlineMs ?? limits.etcdCallMs);
  const signal = options.signal ?? new AbortController().signal;
  const views = await Promise.all(members.all.map((member) => askHealth(member, untilMs, signal)));
  const listed = views.find((view) => view.listed.length > 0)?.listed ?? [];
  const shown = views.map((view) => describeEndpoint(view, listed));
  const hidden = listed.filter((member) => !shown.some(({ id }) => id === member.id));
  return [
    ...shown.map(({ member }) => member),
    ...hidden.map(({ name, clientUrls }) => ({ name, endpoint: clientUrls[0] ?? '', healthy: false, leader: false })),
  ];
}

async function askHealth(member: EtcdMember, untilMs: number, signal: AbortSignal): Promise<Health> {
  const options = { what: `ask ${member.endpoint} how it is`, untilMs, signal };
  const [status, listed] = await Promise.all([
    member.attempt((transport, call) => createClient(Maintenance, transport).status({}, withoutLeader(call)), options),
    member.attempt((transport, call) => createClient(Cluster, transport).memberList({}, withoutLeader(call)), options),
  ]);
  if (status.kind === 'lost') member.distrustConnection();
  return {
    endpoint: member.endpoint,
    status: status.kind === 'answer' ? status.value : null,
    listed: listed.kind === 'answer' ? listed.value.members : [],
  };
}

/** A member without a leader still knows itself. */
function withoutLeader(call: NonNullable<Parameters<Client<typeof Maintenance>['status']>[1]>) {
  return { ...call, headers: {} };
}

function describeEndpoint({ endpoint, status }: Health, listed: Member[]): { id: bigint | undefined; member: StoreMember } {
  const known =
    status === null
      ? listed.find(({ clientUrls }) => clientUrls.includes(endpoint))
      : listed.find(({ id }) => id === status.header?.memberId);
  const id = status?.header?.memberId ?? known?.id;
  const healthy = status !== null && status.leader !== 0n && status.errors.length === 0;
  return { id, member: { name: known?.name || endpoint, endpoint, healthy, leader: status !== null && status.leader === id } };
}
