import { formatFingerprint } from './crypt-key.ts';
import { formatKeyFile, type KeyFile } from './key-file.ts';

const lineChars = 72;

/** A key file as a page to print and lock away: the lines between the marks, put together, are the key file. */
export function formatPaperKey(file: KeyFile, subject: string): string {
  const json = JSON.stringify(JSON.parse(formatKeyFile(file)));
  const lines = json.match(new RegExp(`.{1,${lineChars}}`, 'g')) ?? [];
  const protection =
    file.kdf === null ? 'NOT protected by a passphrase: who holds this page can read the backups' : 'protected by its passphrase';
  return [
    'Encryption key of backups',
    ...(subject === '' ? [] : [`Subject: ${subject}`]),
    ...(file.fingerprint === null ? [] : [`Fingerprint: ${formatFingerprint(file.fingerprint)}`]),
    ...(file.hint === null ? [] : [`Hint: ${file.hint}`]),
    `Made: ${file.created}, ${protection}`,
    '',
    'To get the key back, type the lines between the marks, without line breaks, into a file.',
    'A mistake is noticed when the file is used: the fingerprint then does not fit.',
    '',
    '-----BEGIN PROXMOX BACKUP KEY-----',
    ...lines,
    '-----END PROXMOX BACKUP KEY-----',
    '',
  ].join('\n');
}
