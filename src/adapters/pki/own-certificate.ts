import './reflect-metadata.ts';
import { createHash, randomBytes, webcrypto } from 'node:crypto';
import { rename, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import {
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from '@peculiar/x509';

const dayMs = 24 * 60 * 60 * 1000;
/** Long: who backs up pins the certificate, and each renewal has to be told to all of them. */
const validDays = 10 * 365;

/**
 * Makes a key (0600) and a certificate that it signs itself, replacing older ones; peers pin its fingerprint, which is returned: SHA-256 as
 * colon-separated hex pairs. `addresses`: names and IP addresses it is reached at.
 */
export async function makeOwnCertificate(order: {
  name: string;
  addresses: readonly string[];
  certFile: string;
  keyFile: string;
}): Promise<string> {
  const keys = await webcrypto.subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify']);
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40; // positive, as RFC 5280 wants it
  const names = [...new Set([order.name, 'localhost', '127.0.0.1', ...order.addresses])];
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: [{ CN: [order.name] }],
    serialNumber: serial.toString('hex'),
    notBefore: new Date(Date.now() - dayMs), // clients' clocks may be behind
    notAfter: new Date(Date.now() + validDays * dayMs),
    keys,
    signingAlgorithm: { name: 'ECDSA', hash: 'SHA-256' },
    extensions: [
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(names.map((value) => ({ type: isIP(value) === 0 ? 'dns' : 'ip', value }))),
    ],
  });
  const key = `${PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY')}\n`;
  await replaceFile(order.keyFile, key, 0o600);
  await replaceFile(order.certFile, `${certificate.toString('pem')}\n`, 0o644);
  const hex = createHash('sha256').update(new Uint8Array(certificate.rawData)).digest('hex');
  return hex.replaceAll(/(..)(?=.)/g, '$1:');
}

async function replaceFile(file: string, text: string, mode: number): Promise<void> {
  await writeFile(`${file}.new`, text, { mode });
  await rename(`${file}.new`, file);
}
