import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type EtcdMemberPlan, formatEtcdArguments } from './etcd-arguments.ts';

const plan: EtcdMemberPlan = {
  name: 'north',
  dataDirectory: '/data/etcd',
  address: '10.77.0.1',
  clientPort: 2379,
  peerPort: 2380,
  initialMembers: [
    { name: 'north', address: '10.77.0.1', peerPort: 2380 },
    { name: 'south', address: 'fd00::2', peerPort: 2380 },
  ],
  clusterToken: 'token',
  initialState: 'new',
  tls: { caFile: '/pki/ca.pem', certFile: '/pki/node.pem', keyFile: '/pki/node.key' },
};

test('with certificates every url is https and both sides must show one', () => {
  const args = formatEtcdArguments(plan);
  assert(args.includes('--listen-client-urls=https://10.77.0.1:2379'));
  assert(args.includes('--initial-cluster=north=https://10.77.0.1:2380,south=https://[fd00::2]:2380'));
  assert(args.includes('--client-cert-auth=true'));
  assert(args.includes('--peer-client-cert-auth=true'));
  assert(!args.some((text) => text.includes('http://')));
});

test('without certificates no url is https and no certificate is named', () => {
  const args = formatEtcdArguments({ ...plan, tls: null });
  assert(args.includes('--listen-peer-urls=http://10.77.0.1:2380'));
  assert(!args.some((text) => text.includes('https') || text.includes('cert')));
});

test('the election time leaves room for lost heartbeats', () => {
  const args = formatEtcdArguments(plan);
  const value = (name: string) => Number(args.find((text) => text.startsWith(`--${name}=`))?.split('=')[1]);
  assert(value('election-timeout') >= 5 * value('heartbeat-interval')); // etcd refuses to start below this
});
