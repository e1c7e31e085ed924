import { createHmac, randomBytes, scryptSync, timingSafeEqual } from 'node:crypto';
import { AppError } from '#base/error.ts';
import { isAllowed, isAllowedBelow, type AclEntry, type Privilege } from '#core/access/acl.ts';
import { userOf } from '#core/backup/owner.ts';
import { isCsrfToken, makeCsrfToken, makeTicket, readCredentials, readTicket } from '#core/access/credentials.ts';

/** `secretHash`: as `hashSecret` makes it; null: nobody can log in as this one. Enabled and for ever unless it says otherwise. */
export type Account = {
  id: string;
  secretHash: string | null;
  isEnabled?: boolean;
  expiresAtSeconds?: number | null;
  comment?: string | null;
};
/** Asked anew for every request. */
export type AccessRules = { readonly accounts: readonly Account[]; readonly acl: readonly AclEntry[] };
type Headers = Readonly<Record<string, string | string[] | undefined>>;

/** Who may do what at this server. */
export type Access = {
  /** Raises AppError unauthenticated. */
  identify(headers: Headers, method: string): string;
  login(user: string, password: string): { username: string; ticket: string; CSRFPreventionToken: string };
  has(who: string, path: string, privilege: Privilege): boolean;
  /** On the path or anywhere below. */
  hasBelow(who: string, path: string, privilege: Privilege): boolean;
};

const cost = { N: 16_384, r: 8, p: 1 } as const;

/** A secret as it may be stored. */
export function hashSecret(secret: string): string {
  const salt = randomBytes(16);
  return `scrypt$${salt.toString('base64')}$${scryptSync(secret, salt, 32, cost).toString('base64')}`;
}

/** `key`: signs tickets; whoever restarts with another one logs everybody out. */
export function createAccess(rules: AccessRules, key: Uint8Array, nowSeconds: () => number): Access {
  const sign = (text: string): string => createHmac('sha256', key).update(text).digest('base64');
  // A token comes with every request: what was right once is remembered by its keyed hash, never by itself.
  const known = new Map<string, string>();

  /** Neither switched off nor expired; a token lives no longer than its user. */
  function isAlive(id: string): boolean {
    const account = rules.accounts.find((candidate) => candidate.id === id);
    if (account?.isEnabled === false) return false;
    if ((account?.expiresAtSeconds ?? Number.POSITIVE_INFINITY) <= nowSeconds()) return false;
    return id.includes('!') ? isAlive(userOf(id)) : true;
  }

  function isSecret(id: string, secret: string): boolean {
    const account = isAlive(id) ? rules.accounts.find((candidate) => candidate.id === id) : undefined;
    const mark = createHmac('sha256', key).update(`${id}\0${account?.secretHash}\0${secret}`).digest('base64');
    const stored = account?.secretHash ?? null;
    if (stored !== null && known.get(id) === mark) return true;
    const [, salt = '', hash = ''] = (stored ?? hashOfNobody).split('$');
    const isRight = isSameText(scryptSync(secret, Buffer.from(salt, 'base64'), 32, cost).toString('base64'), hash);
    if (!isRight || stored === null) return false;
    known.set(id, mark);
    return true;
  }

  return {
    identify(headers, method) {
      const credentials = readCredentials(headers as Parameters<typeof readCredentials>[0]);
      if (credentials.kind === 'token' && credentials.id.includes('!') && isSecret(credentials.id, credentials.secret))
        return credentials.id;
      if (credentials.kind === 'ticket') {
        const user = readTicket(credentials.ticket, nowSeconds(), sign, isSameText);
        const isSafe =
          method === 'GET' || (user !== null && isCsrfToken(credentials.csrf ?? '', user, nowSeconds(), sign, isSameText));
        const isKnown = rules.accounts.some((account) => account.id === user); // he may have been removed since
        if (user !== null && isSafe && isKnown && isAlive(user)) return user;
      }
      throw new AppError('unauthenticated', 'authentication failed: no valid ticket or API token');
    },
    login(user, password) {
      const isKnown = rules.accounts.some((account) => account.id === user) && isAlive(user); // also where a ticket is renewed
      const renewed = isKnown && readTicket(password, nowSeconds(), sign, isSameText) === user;
      if (!renewed && (user.includes('!') || !isSecret(user, password))) {
        throw new AppError('unauthenticated', 'authentication failed: user or password is wrong');
      }
      return {
        username: user,
        ticket: makeTicket(user, nowSeconds(), sign),
        CSRFPreventionToken: makeCsrfToken(user, nowSeconds(), sign),
      };
    },
    has: (who, path, privilege) => isAllowed(rules.acl, who, path, privilege),
    hasBelow: (who, path, privilege) => isAllowedBelow(rules.acl, who, path, privilege),
  };
}

/** Somebody unknown takes as long as a wrong secret. */
const hashOfNobody = hashSecret(randomBytes(16).toString('hex'));

function isSameText(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}
