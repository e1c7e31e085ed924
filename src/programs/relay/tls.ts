import { readFileSync } from 'node:fs';
import { connect, type PeerCertificate, type TLSSocket } from 'node:tls';
import { AppError } from '#base/error.ts';

export type TlsFiles = { caFile: string; certFile: string; keyFile: string };
export type TlsIdentity = { ca: Buffer; cert: Buffer; key: Buffer };

/** Extended key usage "TLS server" (RFC 5280): only nodes' certificates have it, operators' do not. */
const serverUsage = '1.3.6.1.5.5.7.3.1';

/** Raises AppError missing when a file cannot be read. */
export function readIdentity(files: TlsFiles): TlsIdentity {
  const read = (file: string): Buffer => {
    try {
      return readFileSync(file);
    } catch (cause) {
      throw new AppError('missing', `the relay's certificate file ${file} cannot be read`, { cause });
    }
  };
  return { ca: read(files.caFile), cert: read(files.certFile), key: read(files.keyFile) };
}

/** The node a verified certificate belongs to. Raises AppError denied when it is no node's. */
export function readPeerName(certificate: PeerCertificate): string {
  const name = certificate.subject?.CN;
  if (typeof name !== 'string' || !(certificate.ext_key_usage ?? []).includes(serverUsage)) {
    throw new AppError('denied', `the peer's certificate (${String(name)}) is not a node's`);
  }
  return name;
}

/** A TLS connection to the relay of `node`, both sides verified. Raises AppError unavailable, timeout or denied. */
export function dialPeer(
  identity: TlsIdentity,
  peer: { node: string; address: string; port: number },
  deadlineMs: number,
): Promise<TLSSocket> {
  const what = `reach the relay of ${peer.node} at ${peer.address}:${peer.port}`;
  return new Promise((resolve, reject) => {
    const socket = connect({
      ...identity,
      host: peer.address,
      port: peer.port,
      minVersion: 'TLSv1.3',
      // The name is what we verify, not the address: a node may be reached by another one.
      checkServerIdentity: (_host, certificate) =>
        certificate.subject?.CN === peer.node
          ? undefined
          : new AppError('denied', `${what}: its certificate is for ${String(certificate.subject?.CN)}`),
    });
    const timer = setTimeout(
      () => socket.destroy(new AppError('timeout', `${what}: no answer within ${deadlineMs} ms`)),
      deadlineMs,
    );
    socket.once('secureConnect', () => {
      clearTimeout(timer);
      socket.off('error', fail);
      socket.setNoDelay(true);
      resolve(socket);
    });
    const fail = (cause: Error): void => {
      clearTimeout(timer);
      socket.destroy();
      reject(cause instanceof AppError ? cause : new AppError('unavailable', `${what} failed`, { cause }));
    };
    socket.on('error', fail);
  });
}
