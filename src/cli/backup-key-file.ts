import { randomBytes } from 'node:crypto';
import { open, rename, unlink } from 'node:fs/promises';
import { AppError } from '#base/error.ts';
import { keyLimits, type KeyDerivation, type makeKeyFile } from '#core/backup/key-file.ts';
import { readSecret } from '#cli/backup-access.ts';
import type { CliWorld } from '#cli/world.ts';

export const kdfs = ['scrypt', 'pbkdf2', 'none'] as const;
export const kdfOption = ['--kdf <kdf>', 'how a passphrase protects the key: scrypt, pbkdf2, or none', 'scrypt'] as const;

/** A passphrase for something new: typed ones twice. */
export async function readNewPassphrase(world: CliWorld, file: string | null, variable: string | null): Promise<string> {
  const option = variable === null ? '--new-passphrase-file' : '--passphrase-file';
  const first = await readSecret(world, { file, variable, question: 'New passphrase: ', option });
  const isTyped = file === null && (variable === null || world.environment(variable) === null) && world.err.isTerminal;
  if (isTyped && (await world.readSecret('The same again: ')) !== first) {
    throw new AppError('invalid', 'passphrase: the two are not the same; nothing was changed');
  }
  return first;
}

/** What protects a new key file; null: nothing. */
export function protect(kdf: (typeof kdfs)[number], passphrase: string | null): Parameters<typeof makeKeyFile>[1] {
  if (kdf === 'none' || passphrase === null) return null;
  const salt = fresh(keyLimits.saltBytes);
  const derivation: Exclude<KeyDerivation, null> =
    kdf === 'scrypt'
      ? { kind: 'scrypt', ...keyLimits.scrypt, salt }
      : { kind: 'pbkdf2', iterations: keyLimits.pbkdf2Iterations, salt };
  return { passphrase, kdf: derivation, iv: fresh(16) };
}

/** Only for its owner, on disk before it counts, and never over a key that is there unless that is meant. */
export async function writeSecretFile(path: string, text: string, how: 'new' | 'replace'): Promise<void> {
  const written = how === 'new' ? path : `${path}.new-${process.pid}`;
  const handle = await open(written, 'wx', 0o600).catch((cause: unknown) => {
    const isThere = (cause as NodeJS.ErrnoException).code === 'EEXIST';
    throw new AppError(
      isThere ? 'conflict' : 'invalid',
      `key file: ${written} ${isThere ? 'exists already' : 'cannot be written'}`,
      {
        cause,
      },
    );
  });
  try {
    await handle.writeFile(text);
    await handle.sync();
    await handle.close();
    if (how === 'replace') await rename(written, path);
  } catch (error) {
    await handle.close().catch(() => {});
    await unlink(written).catch(() => {});
    throw error;
  }
}

/** The time as key files have it. */
export function formatNow(world: CliWorld): string {
  return new Date(world.nowMs()).toISOString().replace(/\.\d+Z$/, '+00:00');
}

export function fresh(count: number): Uint8Array {
  return Uint8Array.from(randomBytes(count));
}
