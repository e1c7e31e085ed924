import { createHash, randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { createEtcdStore } from '#adapters/etcd/etcd-store.ts';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import type { JoinCodeRecord } from '#core/cluster/admission.ts';
import { type ClusterRole, formatJoinCode } from '#core/cluster/join-code.ts';
import { clusterPorts } from '#core/cluster/ports.ts';
import { formatDuration } from '#core/text/duration.ts';
import { keys } from '#core/ha/keys.ts';
import { readDoorFingerprint } from '#programs/join-door/answer.ts';
import { readNodeConfig } from '#programs/node-config.ts';
import { readStoreEndpoints } from '#programs/store-endpoints.ts';
import { setupFiles } from './setup-file.ts';
import { waitFor } from './steps.ts';

/**
 * Makes a code for one machine, on a member, and returns it once this node's door is open. It is written down only as the hash of its
 * secret. Raises AppError missing (not a member), invalid, unsupported (no authority's key here), unavailable (its agent does not run: the
 * code is withdrawn again).
 */
export async function makeJoinCode(options: {
  config?: string;
  role: ClusterRole;
  validMs: number;
}): Promise<{ code: string; expiresAtMs: number }> {
  if (options.validMs > limits.joinCodeMaxMs) {
    throw new AppError('invalid', `valid: a join code is good for at most ${formatDuration(limits.joinCodeMaxMs)}`);
  }
  const config = readNodeConfig(options.config ?? setupFiles.nodeToml);
  const fingerprint = await readDoorFingerprint(config);
  const id = randomBytes(4).toString('hex');
  const secret = randomBytes(16).toString('hex');
  const createdAtMs = Date.now();
  const record: JoinCodeRecord = {
    id,
    role: options.role,
    secretHash: createHash('sha256').update(secret).digest('hex'),
    madeBy: config.node.name,
    createdAtMs,
    expiresAtMs: createdAtMs + options.validMs,
    wrongTries: 0,
    used: null,
  };
  await using store = createEtcdStore({ endpoints: readStoreEndpoints(config), tls: config.etcd.tls });
  const key = keys.joinCode(id);
  const outcome = await store.commit([{ key, modRevision: 0n }], [{ key, value: JSON.stringify(record) }]);
  if (outcome.kind === 'conflict') throw new AppError('conflict', 'make a join code: another one has its number; try again');
  if (!(await waitFor(limits.requestPickupMs, () => isDoorOpen(config.node.address)))) {
    await store.commit([], [{ key, value: null }]);
    const advice = 'its agent must run: systemctl status holdfast-agent';
    throw new AppError(
      'unavailable',
      `make a join code: the door of ${config.node.name} did not open within ${limits.requestPickupMs / 1000} s; ${advice}`,
    );
  }
  const { role, expiresAtMs } = record;
  const code = formatJoinCode({
    role,
    id,
    secret,
    fingerprint,
    expiresAtMs,
    address: config.node.address,
    port: clusterPorts.joinDoor,
  });
  return { code, expiresAtMs };
}

function isDoorOpen(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: clusterPorts.joinDoor, timeout: limits.ipCommandMs });
    const end = (open: boolean) => {
      socket.destroy();
      resolve(open);
    };
    socket
      .once('connect', () => end(true))
      .once('error', () => end(false))
      .once('timeout', () => end(false));
  });
}
