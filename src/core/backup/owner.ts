import { AppError } from '#base/error.ts';
import { quote } from './bytes.ts';

/** Reads `user@realm` or `user@realm!token`. Raises AppError invalid, naming `field`. */
export function parseAuthId(value: unknown, field: string): string {
  if (
    typeof value !== 'string' ||
    value.length > 128 ||
    !/^[^\s:/!@]+(@[^\s:/!@]+)*@[A-Za-z][A-Za-z0-9._-]+(![A-Za-z0-9_][A-Za-z0-9._-]*)?$/.test(value)
  ) {
    throw new AppError('invalid', `${field}: ${quote(value)} is neither user@realm nor user@realm!token`);
  }
  return value;
}

/** A user may use the groups of his own tokens; a token uses its own alone, and no user another's. */
export function isOwnedBy(owner: string, caller: string): boolean {
  return owner === caller || (!caller.includes('!') && owner.startsWith(`${caller}!`));
}

/** The user himself, or whose token it is. */
export function userOf(authId: string): string {
  return authId.split('!')[0] ?? authId;
}
