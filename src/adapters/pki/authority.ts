import './reflect-metadata.ts';
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  randomUUID,
  webcrypto,
  X509Certificate as NodeCertificate,
} from 'node:crypto';
import { chmod, link, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  Pkcs10CertificateRequest,
  Pkcs10CertificateRequestGenerator,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';
import { AppError } from '#base/error.ts';

const keyAlgorithm = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const signingAlgorithm = { name: 'ECDSA', hash: 'SHA-256' } as const;
const dayMs = 24 * 60 * 60 * 1000;

/** Days from issue to expiry. Long: a cluster that stops because nobody renewed a certificate is the outage we are there to prevent. */
export const certificateDays = { authority: 25 * 365, leaf: 10 * 365 } as const;

/** A new server's clock may be behind before its first time sync; certificates are valid from this long ago. */
const backdateMs = dayMs;

export type CertificateOrder = {
  name: string;
  /** IP addresses and host names the holder is reached at. */
  addresses: string[];
  /** node: TLS server and client (etcd uses one pair for both); client: client only. */
  kind: 'node' | 'client';
  out: { certFile: string; keyFile: string };
};

/**
 * Makes the cluster's own certificate authority: `ca.pem` and `ca.key` (0600) in `directory`, which is created 0700.
 * Raises AppError conflict when one is there already: it is never overwritten, all certificates of the cluster hang on it.
 */
export async function createAuthority(directory: string, options: { clusterName: string }): Promise<void> {
  const keys = await webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: [{ CN: [`${options.clusterName} authority`] }],
    serialNumber: createSerialNumber(),
    ...validity(certificateDays.authority),
    keys,
    signingAlgorithm,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  await mkdir(directory, { recursive: true, mode: 0o700 });
  try {
    await writeAuthority(directory, `${certificate.toString('pem')}\n`, await formatPrivateKey(keys.privateKey));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
    throw new AppError(
      'conflict',
      `make the certificate authority of ${options.clusterName}: ${directory} holds a ca.key or ca.pem already and it is not overwritten; use that one, or move ${directory} away first`,
      { cause },
    );
  }
}

/**
 * Issues a certificate signed by the authority in `directory` and writes it with its new key (0600), replacing older ones.
 * The names it is valid for: its own name, `addresses`, localhost and 127.0.0.1.
 * Raises AppError missing when there is no authority, invalid when it cannot be read.
 */
export async function issueCertificate(directory: string, order: CertificateOrder): Promise<void> {
  const authority = await readAuthority(directory);
  const keys = await webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
  const certificate = await signLeaf(authority, keys.publicKey, order);
  await replaceFile(order.out.keyFile, await formatPrivateKey(keys.privateKey), 0o600);
  await replaceFile(order.out.certFile, certificate, 0o644);
}

/** What a machine that wants to join sends: its key stays where it was made. `keyHash`: SHA-256 of the public key. */
export type KeyRequest = { pem: string; keyHash: string };

/** Makes a request for a certificate with the key in `keyFile`; the key is made when there is none. Raises AppError invalid. */
export async function requestCertificate(keyFile: string, name: string): Promise<KeyRequest> {
  const privatePem = await readOrMakeKey(keyFile);
  try {
    const publicDer = createPublicKey(createPrivateKey(privatePem)).export({ type: 'spki', format: 'der' });
    const [privateDer] = PemConverter.decode(privatePem);
    const keys = {
      privateKey: await webcrypto.subtle.importKey('pkcs8', privateDer ?? new ArrayBuffer(), keyAlgorithm, false, ['sign']),
      publicKey: await webcrypto.subtle.importKey('spki', publicDer, keyAlgorithm, true, ['verify']),
    };
    const request = await Pkcs10CertificateRequestGenerator.create({ name: [{ CN: [name] }], keys, signingAlgorithm });
    return { pem: request.toString('pem'), keyHash: createHash('sha256').update(publicDer).digest('hex') };
  } catch (cause) {
    throw new AppError('invalid', `ask for a certificate: ${keyFile} is no key of ours; move it away and try again`, { cause });
  }
}

/** Reads a request: whoever made it has the key. Raises AppError invalid. */
export async function readKeyRequest(pem: string): Promise<KeyRequest> {
  let request: Pkcs10CertificateRequest;
  try {
    request = new Pkcs10CertificateRequest(pem);
    if (!(await request.verify())) throw new Error('its signature does not fit its key');
  } catch (cause) {
    throw new AppError('invalid', 'request: this is no good request for a certificate', { cause });
  }
  return { pem, keyHash: createHash('sha256').update(Buffer.from(request.publicKey.rawData)).digest('hex') };
}

/** The certificate for a request. Names and addresses are the order's: what the request says of itself counts for nothing. */
export async function signRequest(directory: string, pem: string, order: Omit<CertificateOrder, 'out'>): Promise<string> {
  const authority = await readAuthority(directory);
  await readKeyRequest(pem);
  const publicKey = await new Pkcs10CertificateRequest(pem).publicKey.export(keyAlgorithm, ['verify']);
  return signLeaf(authority, publicKey, order);
}

/** SHA-256 of a certificate, as join codes carry it. */
export function fingerprintOf(certificatePem: string): string {
  return new NodeCertificate(certificatePem).fingerprint256.replaceAll(':', '').toLowerCase();
}

async function readOrMakeKey(keyFile: string): Promise<string> {
  try {
    return await readFile(keyFile, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
  }
  const made = await webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
  const pem = await formatPrivateKey(made.privateKey);
  await replaceFile(keyFile, pem, 0o600);
  return pem;
}

type Authority = Awaited<ReturnType<typeof readAuthority>>;

async function signLeaf(
  authority: Authority,
  publicKey: webcrypto.CryptoKey,
  order: Omit<CertificateOrder, 'out'>,
): Promise<string> {
  const certificate = await X509CertificateGenerator.create({
    subject: [{ CN: [order.name] }],
    issuer: authority.certificate.subject,
    serialNumber: createSerialNumber(),
    ...validity(certificateDays.leaf),
    publicKey,
    signingKey: authority.key,
    signingAlgorithm,
    extensions: [
      ...formatLeafExtensions(order),
      await SubjectKeyIdentifierExtension.create(publicKey),
      await AuthorityKeyIdentifierExtension.create(authority.certificate),
    ],
  });
  return `${certificate.toString('pem')}\n`;
}

function authorityFiles(directory: string): { certFile: string; keyFile: string } {
  return { certFile: join(directory, 'ca.pem'), keyFile: join(directory, 'ca.key') };
}

async function writeAuthority(directory: string, certificatePem: string, keyPem: string): Promise<void> {
  const { certFile, keyFile } = authorityFiles(directory);
  await writeNewFile(keyFile, keyPem, 0o600);
  try {
    await writeNewFile(certFile, certificatePem, 0o644);
  } catch (cause) {
    await rm(keyFile); // our own, just made: without its certificate it would only stand in the way
    throw cause;
  }
}

async function readAuthority(directory: string): Promise<{ certificate: X509Certificate; key: webcrypto.CryptoKey }> {
  const { certFile, keyFile } = authorityFiles(directory);
  let certText: string;
  let keyText: string;
  try {
    certText = await readFile(certFile, 'utf8');
    keyText = await readFile(keyFile, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
    throw new AppError('missing', `issue a certificate: no certificate authority in ${directory} (ca.pem and ca.key)`, { cause });
  }
  try {
    const [der] = PemConverter.decode(keyText);
    const key = await webcrypto.subtle.importKey('pkcs8', der ?? new ArrayBuffer(), keyAlgorithm, false, ['sign']);
    return { certificate: new X509Certificate(certText), key };
  } catch (cause) {
    throw new AppError('invalid', `issue a certificate: the authority in ${directory} cannot be read`, { cause });
  }
}

function formatLeafExtensions(order: Omit<CertificateOrder, 'out'>): Extension[] {
  const names = new Set([order.name, ...order.addresses, 'localhost', '127.0.0.1']);
  const usages = [ExtendedKeyUsage.clientAuth, ...(order.kind === 'node' ? [ExtendedKeyUsage.serverAuth] : [])];
  return [
    new BasicConstraintsExtension(false, undefined, true),
    new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
    new ExtendedKeyUsageExtension(usages),
    new SubjectAlternativeNameExtension(
      [...names].map((name) => (isIP(name) === 0 ? { type: 'dns', value: name } : { type: 'ip', value: name })),
    ),
  ];
}

function validity(days: number): { notBefore: Date; notAfter: Date } {
  const nowMs = Date.now();
  return { notBefore: new Date(nowMs - backdateMs), notAfter: new Date(nowMs + days * dayMs) };
}

/** 128 random bits with the top bit clear: RFC 5280 section 4.1.2.2 wants a positive number of at most 20 octets. */
function createSerialNumber(): string {
  const bytes = webcrypto.getRandomValues(new Uint8Array(16));
  bytes[0] = (bytes[0]! & 0x3f) | 0x40;
  return Buffer.from(bytes).toString('hex');
}

async function formatPrivateKey(key: webcrypto.CryptoKey): Promise<string> {
  return `${PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')}\n`;
}

/** Creates `file` whole or not at all; fails with EEXIST when it is there. */
async function writeNewFile(file: string, text: string, mode: number): Promise<void> {
  const temporary = await writeTemporaryFile(file, text, mode);
  try {
    await link(temporary, file);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Replaces `file` in one step: a reader sees the old text or the new, never a part. */
async function replaceFile(file: string, text: string, mode: number): Promise<void> {
  await rename(await writeTemporaryFile(file, text, mode), file);
}

async function writeTemporaryFile(file: string, text: string, mode: number): Promise<string> {
  const temporary = `${file}.${randomUUID()}.new`;
  const handle = await open(temporary, 'wx', mode);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await chmod(temporary, mode); // whatever the umask
  return temporary;
}
