import { AppError } from '#base/error.ts';
import { parseAclPath, roles, type Privilege } from '#core/access/acl.ts';
import { flag, integer, optional, parsed, text } from '#core/access/parameter.ts';
import { parseAuthId, userOf } from '#core/backup/owner.ts';
import { authIdParameter } from '#core/backup/rest-parameters.ts';
import { hashSecret, type Account } from '../access.ts';
import { data, route, type RestContext } from './context.ts';

const userParameter = parsed(64, 'user@realm', (value, field) => {
  if (parseAuthId(value, field).includes('!')) throw new AppError('invalid', `${field}: this is a token, not a user`);
  return value;
});
const tokenName = parsed(64, 'name of the token', (value, field) => {
  if (!/^[A-Za-z0-9_][A-Za-z0-9._-]*$/.test(value))
    throw new AppError('invalid', `${field}: letters, digits and . _ - make a name`);
  return value;
});
const password = parsed(1_024, 'password of at least 8 letters', (value, field) => {
  if (value.length < 8) throw new AppError('invalid', `${field}: it is shorter than 8 letters`);
  return value;
});
const accountParameters = {
  comment: optional(text(256, 'a remark')),
  enable: optional(flag('whether one can log in; on if missing')),
  expire: optional(integer(0, 253_402_300_799, 'seconds since 1970; 0: never')),
};
const tokens = { userid: userParameter, 'token-name': tokenName };
const known = { kind: 'known' } as const;
const manage = { kind: 'rights', on: '/access/users', any: ['Permissions.Modify'] } as const;

/** Users, tokens and rights. A user makes and removes tokens of his own; the rest takes Permissions.Modify. */
export const accessRoutes = [
  route({
    method: 'GET',
    path: 'access/users',
    what: 'lists users; without Sys.Audit oneself',
    permission: known,
    parameters: { include_tokens: flag('with their tokens') },
    run(params, context) {
      const isAuditor = context.access.has(context.caller, '/access/users', 'Sys.Audit');
      const users = context.book.accounts.filter(({ id }) => !id.includes('!') && (isAuditor || id === userOf(context.caller)));
      return Promise.resolve(
        data(
          users.map((user) => ({
            userid: user.id,
            ...describeAccount(user),
            ...(params.include_tokens ? { tokens: listTokens(context, user.id) } : {}),
          })),
        ),
      );
    },
  }),
  route({
    method: 'POST',
    path: 'access/users',
    what: 'makes a user',
    permission: manage,
    parameters: { userid: userParameter, password: optional(password), ...accountParameters },
    run(params, context) {
      const secretHash = params.password === null ? null : hashSecret(params.password);
      context.book.add({ id: params.userid, secretHash, ...accountOf(params) });
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'PUT',
    path: 'access/users/{userid}',
    what: 'changes a user',
    permission: manage,
    parameters: { userid: userParameter, ...accountParameters },
    run(params, context) {
      context.book.change(params.userid, accountOf(params));
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'DELETE',
    path: 'access/users/{userid}',
    what: 'removes a user with his tokens and rights',
    permission: manage,
    parameters: { userid: userParameter },
    run(params, context) {
      context.book.remove(params.userid);
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'PUT',
    path: 'access/password',
    what: 'sets a password, one’s own or with Permissions.Modify anybody’s',
    permission: known,
    parameters: { userid: userParameter, password },
    run(params, context) {
      requireOver(context, params.userid);
      context.book.change(params.userid, { secretHash: hashSecret(params.password) });
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'GET',
    path: 'access/users/{userid}/token',
    what: 'lists the tokens of a user',
    permission: known,
    parameters: { userid: userParameter },
    run(params, context) {
      requireOver(context, params.userid);
      return Promise.resolve(data(listTokens(context, params.userid)));
    },
  }),
  route({
    method: 'POST',
    path: 'access/users/{userid}/token/{token-name}',
    what: 'makes a token; its secret is told this once',
    permission: known,
    parameters: { ...tokens, ...accountParameters },
    run(params, context) {
      requireOver(context, params.userid);
      const id = `${params.userid}!${params['token-name']}`;
      return Promise.resolve(data({ tokenid: id, value: context.book.addToken({ id, ...accountOf(params) }) }));
    },
  }),
  route({
    method: 'PUT',
    path: 'access/users/{userid}/token/{token-name}',
    what: 'changes a token',
    permission: known,
    parameters: { ...tokens, ...accountParameters },
    run(params, context) {
      requireOver(context, params.userid);
      context.book.change(`${params.userid}!${params['token-name']}`, accountOf(params));
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'DELETE',
    path: 'access/users/{userid}/token/{token-name}',
    what: 'removes a token and its rights',
    permission: known,
    parameters: tokens,
    run(params, context) {
      requireOver(context, params.userid);
      context.book.remove(`${params.userid}!${params['token-name']}`);
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'GET',
    path: 'access/acl',
    what: 'lists rights; without Sys.Audit one’s own',
    permission: known,
    parameters: { path: optional(parsed(512, 'only on this path', parseAclPath)) },
    run(params, context) {
      const isAuditor = context.access.has(context.caller, '/access/acl', 'Sys.Audit');
      const entries = context.book.acl.filter(
        ({ path, who }) =>
          (params.path === null || path === params.path) && (isAuditor || userOf(who) === userOf(context.caller)),
      );
      return Promise.resolve(
        data(entries.map(({ path, who, role, propagate }) => ({ path, ugid: who, ugid_type: 'user', roleid: role, propagate }))),
      );
    },
  }),
  route({
    method: 'PUT',
    path: 'access/acl',
    what: 'gives a role on a path, or takes it; a user may do so for his own tokens',
    permission: known,
    parameters: {
      path: parsed(512, 'path', parseAclPath),
      role: text(64, 'role'),
      'auth-id': authIdParameter,
      propagate: optional(flag('below the path too; on if missing')),
      delete: flag('take it'),
    },
    run(params, context) {
      const who = params['auth-id'];
      // A token never has more than its user: so he may do with it as he likes.
      const isOwnToken = who.includes('!') && userOf(who) === context.caller;
      if (!isOwnToken && !context.access.has(context.caller, params.path, 'Permissions.Modify'))
        throw new AppError('denied', 'permission check failed');
      const entry = { path: params.path, who, role: params.role };
      if (params.delete) context.book.revoke(entry);
      else {
        if (context.book.find(who) === null) throw new AppError('missing', `auth-id: ${who} does not exist`);
        context.book.grant({ ...entry, propagate: params.propagate ?? true });
      }
      return Promise.resolve(data(null));
    },
  }),
  route({
    method: 'GET',
    path: 'access/roles',
    what: 'lists roles and their privileges',
    permission: known,
    parameters: {},
    run: () => Promise.resolve(data(Object.entries(roles).map(([roleid, privs]) => ({ roleid, privs })))),
  }),
  route({
    method: 'GET',
    path: 'access/permissions',
    what: 'what one may do where; of others with Sys.Audit, of one’s own tokens always',
    permission: known,
    parameters: { 'auth-id': optional(authIdParameter), path: optional(parsed(512, 'only on this path', parseAclPath)) },
    run(params, context) {
      const who = params['auth-id'] ?? context.caller;
      const isOwn = who === context.caller || userOf(who) === context.caller;
      if (!isOwn && !context.access.has(context.caller, '/access', 'Sys.Audit'))
        throw new AppError('denied', 'permission check failed');
      const paths = params.path === null ? [...new Set(['/', ...context.book.acl.map(({ path }) => path)])] : [params.path];
      const all = [...new Set(Object.values(roles).flat())];
      const held = (path: string): Partial<Record<Privilege, boolean>> =>
        Object.fromEntries(
          all.filter((privilege) => context.access.has(who, path, privilege)).map((privilege) => [privilege, true]),
        );
      const found = paths.map((path) => [path, held(path)] as const).filter(([, mine]) => Object.keys(mine).length > 0);
      return Promise.resolve(data(Object.fromEntries(found)));
    },
  }),
];

/** Oneself, or with the right to; a token manages nobody, not even itself. */
function requireOver({ caller, access }: RestContext, userid: string): void {
  if (caller !== userid && !access.has(caller, '/access/users', 'Permissions.Modify')) {
    throw new AppError('denied', 'permission check failed');
  }
}

function listTokens({ book }: RestContext, userid: string): unknown[] {
  return book.accounts
    .filter(({ id }) => id.includes('!') && userOf(id) === userid)
    .map((token) => ({ tokenid: token.id, 'token-name': token.id.split('!')[1], ...describeAccount(token) }));
}

function describeAccount({ isEnabled = true, expiresAtSeconds, comment }: Account): Record<string, unknown> {
  return { enable: isEnabled, expire: expiresAtSeconds ?? 0, ...(typeof comment === 'string' ? { comment } : {}) };
}

/** What was given; all else stays as it is. */
function accountOf(params: {
  comment: string | null;
  enable: boolean | null;
  expire: number | null;
}): Pick<Account, 'comment' | 'isEnabled' | 'expiresAtSeconds'> {
  return {
    ...(params.comment === null ? {} : { comment: params.comment }),
    ...(params.enable === null ? {} : { isEnabled: params.enable }),
    ...(params.expire === null ? {} : { expiresAtSeconds: params.expire === 0 ? null : params.expire }),
  };
}
