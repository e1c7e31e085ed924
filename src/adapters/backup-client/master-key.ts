import {
  constants,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  privateDecrypt,
  publicEncrypt,
  type KeyObject,
} from 'node:crypto';
import { promisify } from 'node:util';
import { AppError } from '#base/error.ts';
import { encodeText } from '#core/backup/bytes.ts';
import type { CryptKey } from '#core/backup/crypt-key.ts';
import { formatKeyFile, parseKeyFile, type KeyFile } from '#core/backup/key-file.ts';

/**
 * A master key is an RSA pair. Backups carry their data key sealed with the public half; the private half, locked away, opens it when all copies
 * of the data key are lost. What is sealed is an unprotected key file by PKCS #1 v1.5, as Proxmox Backup's clients do it.
 */
const rsaBits = 4096;
const paddingBytes = 11;
const makePair = promisify(generateKeyPair);

/** Both halves as PEM, the private one under a passphrase. */
export async function makeMasterKey(passphrase: string): Promise<{ privatePem: string; publicPem: string }> {
  const { privateKey, publicKey } = await makePair('rsa', {
    modulusLength: rsaBits,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase },
  });
  return { privatePem: privateKey, publicPem: publicKey };
}

/** The data key, sealed. `now`: as key files have times. Raises AppError invalid for anything but a large enough RSA key. */
export function sealKey(publicPem: Uint8Array, key: CryptKey, now: string): Uint8Array {
  const half = readHalf(() => createPublicKey(Buffer.from(publicPem)), 'master-key: it is no public key in PEM form');
  const file: KeyFile = { kdf: null, created: now, modified: now, data: key.encKey, fingerprint: key.fingerprint, hint: null };
  const text = encodeText(JSON.stringify(JSON.parse(formatKeyFile(file))));
  const bits = half.asymmetricKeyDetails?.modulusLength ?? 0;
  if (half.asymmetricKeyType !== 'rsa' || bits / 8 - paddingBytes < text.length) {
    throw new AppError(
      'invalid',
      `master-key: an RSA key of ${rsaBits} bits is needed; this is ${half.asymmetricKeyType} of ${bits} bits`,
    );
  }
  return publicEncrypt({ key: half, padding: constants.RSA_PKCS1_PADDING }, text);
}

/** The key file that was sealed. Raises AppError unauthenticated for a wrong passphrase, denied for another master key. */
export function openSealedKey(privatePem: Uint8Array, passphrase: string, sealed: Uint8Array): KeyFile {
  const half = readHalf(
    () => createPrivateKey({ key: Buffer.from(privatePem), passphrase }),
    'master-key: it is no private key in PEM form, or the passphrase is wrong',
    'unauthenticated',
  );
  try {
    return parseKeyFile(privateDecrypt({ key: half, padding: constants.RSA_PKCS1_PADDING }, sealed));
  } catch (cause) {
    // With a wrong key RSA gives random bytes as often as an error.
    throw new AppError('denied', "master-key: it does not open the snapshot's key: it was sealed for another master key", {
      cause,
    });
  }
}

function readHalf(read: () => KeyObject, otherwise: string, kind: 'invalid' | 'unauthenticated' = 'invalid'): KeyObject {
  try {
    return read();
  } catch (cause) {
    throw new AppError(kind, otherwise, { cause });
  }
}
