import { statSync } from 'node:fs';

/** The user and group QEMU runs as. */
export type QemuUser = { uid: number; gid: number };

/**
 * `command` with its privileges dropped: as arguments of setpriv(1). No privilege can come back by executing a set-uid file. With
 * KVM the group of /dev/kvm is kept, if that device is opened to a group other than root's.
 */
export function asUnprivileged(user: QemuUser, accelerator: 'kvm' | 'tcg', command: string[]): string[] {
  const kvmGroup = accelerator === 'kvm' ? readKvmGroup() : null;
  const groups = kvmGroup === null ? ['--clear-groups'] : ['--groups', String(kvmGroup)];
  return ['setpriv', '--reuid', String(user.uid), '--regid', String(user.gid), ...groups, '--no-new-privs', '--', ...command];
}

function readKvmGroup(): number | null {
  try {
    const { gid, mode } = statSync('/dev/kvm');
    const isOpenToGroup = (mode & 0o060) === 0o060;
    return isOpenToGroup && gid !== 0 ? gid : null;
  } catch {
    return null;
  }
}

/** Environment of every child: nothing of the agent's own reaches QEMU. */
export function plainEnvironment(): Record<string, string> {
  return { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };
}
