import type { Privilege } from './acl.ts';

/**
 * Who may make a call. `on`: the path the privileges are asked on, filled with the call's parameters: `/datastore/{store}/{ns}`;
 * `{ns:parent}` is one level up. `any`: one of these is enough; `ifOwner`: so is one of these for whoever owns what the call is about.
 */
export type Permission =
  | { kind: 'anybody' }
  /** Anybody who is known; what he sees is cut to what he may see. */
  | { kind: 'known' }
  | { kind: 'rights'; on: string; any: readonly Privilege[]; ifOwner?: readonly Privilege[] };

/** `if-owner`: the one who knows whose it is decides. */
export type PermissionVerdict = 'allowed' | 'denied' | 'if-owner';

/** Decides by the caller's privileges; `has` answers for the caller. */
export function decidePermission(
  permission: Permission,
  params: Readonly<Record<string, unknown>>,
  has: (path: string, privilege: Privilege) => boolean,
): PermissionVerdict {
  if (permission.kind !== 'rights') return 'allowed';
  const path = fillPath(permission.on, params);
  if (permission.any.some((privilege) => has(path, privilege))) return 'allowed';
  return permission.ifOwner?.some((privilege) => has(path, privilege)) === true ? 'if-owner' : 'denied';
}

/** The path that a template names for these parameters; what is not given leaves no level. */
export function fillPath(template: string, params: Readonly<Record<string, unknown>>): string {
  const levels = template.split('/').flatMap((level) => {
    const slot = /^\{([a-z-]+)(:parent)?\}$/.exec(level);
    if (slot === null) return [level];
    const value = params[slot[1] ?? ''];
    const names = Array.isArray(value) ? value.map(String) : typeof value === 'string' ? value.split('/') : [];
    return slot[2] === undefined ? names : names.slice(0, -1);
  });
  return `/${levels.filter((level) => level !== '').join('/')}`;
}
