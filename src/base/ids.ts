import { AppError } from '#base/error.ts';

const nodeNamePattern = /^[a-z][a-z0-9-]{0,30}[a-z0-9]$|^[a-z]$/;
const diskNamePattern = /^[a-z][a-z0-9]{0,15}$/;

/** Smallest and largest guest number; the same range as Proxmox VE, so that numbers can be carried over. */
export const vmidRange = { min: 100, max: 999_999_999 } as const;

/** Returns `value` as a guest number. Raises AppError invalid, naming `field`. */
export function parseVmid(value: unknown, field = 'vmid'): number {
  const number = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isInteger(number) || number < vmidRange.min || number > vmidRange.max) {
    throw new AppError(
      'invalid',
      `${field}: ${JSON.stringify(value)} is not a guest number from ${vmidRange.min} to ${vmidRange.max}`,
    );
  }
  return number;
}

/** Returns `value` as a node name (a DNS label in lower case). Raises AppError invalid, naming `field`. */
export function parseNodeName(value: unknown, field = 'node'): string {
  if (typeof value !== 'string' || !nodeNamePattern.test(value)) {
    throw new AppError(
      'invalid',
      `${field}: ${JSON.stringify(value)} is not a node name (lower-case letters, digits and dashes, at most 32)`,
    );
  }
  return value;
}

/** Returns `value` as the name of a guest's disk, e.g. `disk0`. Raises AppError invalid, naming `field`. */
export function parseDiskName(value: unknown, field = 'disk'): string {
  if (typeof value !== 'string' || !diskNamePattern.test(value)) {
    throw new AppError(
      'invalid',
      `${field}: ${JSON.stringify(value)} is not a disk name (a letter, then letters and digits, at most 16)`,
    );
  }
  return value;
}
