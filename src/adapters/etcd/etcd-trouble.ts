import { Code, ConnectError } from '@connectrpc/connect';
import { AppError } from '#base/error.ts';
import { type EtcdTls, NotSent } from './etcd-connection.ts';

/**
 * What a failed call means.
 * - not-applied: it is certain that nothing was done; another member may be asked.
 * - lost: no telling; a read may be asked elsewhere, a commit is `maybe`.
 * - refused: asking elsewhere would be answered the same.
 */
export type CallTrouble = { kind: 'not-applied' | 'lost'; error: unknown } | { kind: 'refused'; error: AppError };

/** etcd's words for refusals that come before anything is proposed (api/v3rpc/rpctypes/error.go of etcd 3.4); their code alone, Unavailable, is not enough. */
const refusedBeforeProposal = ['etcdserver: no leader', 'etcdserver: too many requests'];

/** Also in rpctypes/error.go: the quota is used up and every write is refused until an operator frees space. */
const noSpace = 'etcdserver: mvcc: database space exceeded';

/** OpenSSL's names of the alerts by which a server says that it does not like our certificate. */
const certificateAlert = /^ERR_SSL_.*ALERT.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)/;

/** Node's names (tls, X509 verify errors) for a server certificate that we do not accept. */
const serverCertificateCodes = new Set([
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'CERT_REJECTED',
  'CERT_UNTRUSTED',
  'CERT_SIGNATURE_FAILURE',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'ERR_TLS_CERT_ALTNAME_INVALID',
]);

/** Sorts the error of one call to `endpoint`. `what` begins the messages, e.g. "read /holdfast/cluster". */
export function sortCallError(error: unknown, what: string, endpoint: string, tls: EtcdTls | null): CallTrouble {
  const refusedCertificate = formatRefusedCertificate(error, endpoint, tls);
  if (refusedCertificate !== null) {
    return { kind: 'refused', error: new AppError('unauthenticated', `${what}: ${refusedCertificate}`, { cause: error }) };
  }
  if (listChain(error).some((link) => link instanceof NotSent)) return { kind: 'not-applied', error };
  if (!(error instanceof ConnectError)) return { kind: 'lost', error };
  if (refusedBeforeProposal.includes(error.rawMessage)) return { kind: 'not-applied', error };
  if (error.rawMessage === noSpace) {
    const advice =
      'etcd has used up its space quota and refuses writes; compact and defragment it, then disarm the alarm (etcdctl alarm disarm)';
    return { kind: 'refused', error: new AppError('unavailable', `${what}: ${advice}`, { cause: error }) };
  }
  if (error.code === Code.InvalidArgument) {
    return { kind: 'refused', error: new AppError('invalid', `${what}: etcd refuses the request`, { cause: error }) };
  }
  return { kind: 'lost', error };
}

/** Whether the member's own certificate is what we object to; another member's may be good. */
export function isBadServerCertificate(error: unknown): boolean {
  return listCodes(error).some((code) => serverCertificateCodes.has(code));
}

/** Of two troubles met in one call, the one to show: a last attempt cut short by the deadline tells nothing. */
export function pickTelling(before: unknown, now: unknown): unknown {
  if (before === undefined) return now;
  const cutShort = now instanceof NotSent && now.cause === undefined;
  return cutShort || isBadServerCertificate(before) ? before : now;
}

function formatRefusedCertificate(error: unknown, endpoint: string, tls: EtcdTls | null): string | null {
  if (!listCodes(error).some((code) => certificateAlert.test(code))) return null;
  const file = tls === null ? 'no client certificate is configured' : `client certificate ${tls.certFile}`;
  return `etcd at ${endpoint} refuses us (${file}): this is configuration, not an outage; it must be issued by the authority etcd trusts and be in date`;
}

function listCodes(error: unknown): string[] {
  return listChain(error).flatMap((link) =>
    link instanceof Error && 'code' in link && typeof link.code === 'string' ? [link.code] : [],
  );
}

function listChain(error: unknown): unknown[] {
  const chain: unknown[] = [];
  let current = error;
  while (current !== undefined && current !== null && chain.length < 8) {
    chain.push(current);
    current = current instanceof Error ? current.cause : undefined;
  }
  return chain;
}
