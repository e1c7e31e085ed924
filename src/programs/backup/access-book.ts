import { randomUUID } from 'node:crypto';
import Type from 'typebox';
import { Value } from 'typebox/value';
import { AppError } from '#base/error.ts';
import { parseAclPath, roles, type AclEntry } from '#core/access/acl.ts';
import { parseAuthId, userOf } from '#core/backup/owner.ts';
import { hashSecret, type Account } from './access.ts';
import type { StateFile } from './state-file.ts';

const accountSchema = Type.Object({
  id: Type.String(),
  secretHash: Type.Union([Type.String(), Type.Null()]),
  isEnabled: Type.Optional(Type.Boolean()),
  expiresAtSeconds: Type.Optional(Type.Union([Type.Integer(), Type.Null()])),
  comment: Type.Optional(Type.Union([Type.String(), Type.Null()])),
});
const aclSchema = Type.Object({ path: Type.String(), who: Type.String(), role: Type.String(), propagate: Type.Boolean() });
const schema = Type.Object({ accounts: Type.Array(accountSchema), acl: Type.Array(aclSchema) });

export type BookContent = { accounts: Account[]; acl: AclEntry[] };
const limits = { accounts: 10_000, entries: 20_000 } as const;

/** Raises what typebox raises for what is no book. */
export function readBookFile(value: unknown): BookContent {
  const { accounts, acl } = Value.Parse(schema, value);
  for (const { id } of accounts) parseAuthId(id, 'id');
  for (const entry of acl) checkEntry(entry);
  return { accounts, acl };
}

/**
 * Users, tokens and rights: those of the configuration file, which only change with it, and those made by calls, which are kept in a
 * file of the server's own.
 */
export class AccessBook {
  readonly #fixed: BookContent;
  readonly #file: StateFile<BookContent>;
  #made: BookContent;

  constructor(fixed: BookContent, file: StateFile<BookContent>) {
    this.#fixed = fixed;
    this.#file = file;
    this.#made = file.read();
  }

  get accounts(): readonly Account[] {
    return [...this.#fixed.accounts, ...this.#made.accounts];
  }
  get acl(): readonly AclEntry[] {
    return [...this.#fixed.acl, ...this.#made.acl];
  }

  find(id: string): Account | null {
    return this.accounts.find((account) => account.id === id) ?? null;
  }

  /** Raises AppError conflict when there is one of that name. */
  add(account: Account): void {
    if (this.find(account.id) !== null) throw new AppError('conflict', `${account.id} exists already`);
    if (this.#made.accounts.length >= limits.accounts)
      throw new AppError('conflict', `there are ${limits.accounts} accounts already`);
    this.#write({ ...this.#made, accounts: [...this.#made.accounts, account] });
  }

  /** A new token with a secret that is told once. */
  addToken(account: Omit<Account, 'secretHash'>): string {
    if (this.find(userOf(account.id)) === null) throw new AppError('missing', `user ${userOf(account.id)} does not exist`);
    const secret = randomUUID();
    this.add({ ...account, secretHash: hashSecret(secret) });
    return secret;
  }

  change(id: string, change: Partial<Omit<Account, 'id'>>): void {
    this.#requireMade(id);
    const accounts = this.#made.accounts.map((account) => (account.id === id ? { ...account, ...change } : account));
    this.#write({ ...this.#made, accounts });
  }

  /** With a user go his tokens, and all rights of both. */
  remove(id: string): void {
    this.#requireMade(id);
    const isGone = (who: string): boolean => who === id || (!id.includes('!') && userOf(who) === id);
    this.#write({
      accounts: this.#made.accounts.filter((account) => !isGone(account.id)),
      acl: this.#made.acl.filter((entry) => !isGone(entry.who)),
    });
  }

  grant(entry: AclEntry): void {
    checkEntry(entry);
    if (this.#made.acl.length >= limits.entries) throw new AppError('conflict', `there are ${limits.entries} rights already`);
    const others = this.#made.acl.filter((other) => !isSame(other, entry));
    this.#write({ ...this.#made, acl: [...others, entry] });
  }

  /** Raises AppError missing. */
  revoke(entry: Omit<AclEntry, 'propagate'>): void {
    const others = this.#made.acl.filter((other) => !isSame(other, entry));
    if (others.length === this.#made.acl.length) {
      const isFixed = this.#fixed.acl.some((other) => isSame(other, entry));
      throw isFixed
        ? fixedRefusal(entry.who)
        : new AppError('missing', `${entry.who} has no role ${entry.role} on ${entry.path}`);
    }
    this.#write({ ...this.#made, acl: others });
  }

  #requireMade(id: string): void {
    if (this.#made.accounts.some((account) => account.id === id)) return;
    throw this.find(id) === null ? new AppError('missing', `${id} does not exist`) : fixedRefusal(id);
  }

  #write(content: BookContent): void {
    this.#file.write(content);
    this.#made = content;
  }
}

function fixedRefusal(who: string): AppError {
  return new AppError('conflict', `${who} stands in the server's configuration file; change it there`);
}

function isSame(a: Omit<AclEntry, 'propagate'>, b: Omit<AclEntry, 'propagate'>): boolean {
  return a.path === b.path && a.who === b.who && a.role === b.role;
}

function checkEntry({ path, who, role }: AclEntry): void {
  parseAclPath(path, 'path');
  parseAuthId(who, 'auth-id');
  if (!Object.hasOwn(roles, role)) {
    throw new AppError('invalid', `role: ${JSON.stringify(role)} is none of ${Object.keys(roles).join(', ')}`);
  }
}
