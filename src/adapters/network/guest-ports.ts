import { AppError } from '#base/error.ts';
import { isPortOf, portName } from '#core/guest/guest-paths.ts';
import type { GuestNetwork } from '#ports/guest-network.ts';
import { listLinks, runIp, type Link } from './ip-command.ts';

/**
 * Guests' ports as persistent taps on Linux bridges. Each is owned by the user and group QEMU runs as, so that an unprivileged
 * QEMU can open it; QEMU needs no right on the bridge. Needs CAP_NET_ADMIN in the network namespace of the bridges.
 */
export function createNetwork(owner: { uid: number; gid: number }): GuestNetwork {
  return {
    async createPorts(vmid, nics) {
      const links = await listLinks();
      const bridges = nics.map((nic) => findBridge(links, nic.bridge, vmid));
      for (const left of portsOf(links, vmid)) await removeLink(left.name);
      for (const [index, bridge] of bridges.entries()) await createPort(portName(vmid, index), bridge, owner);
    },

    async cutPorts(vmid) {
      for (const link of portsOf(await listLinks(), vmid)) {
        await unlessGone(link.name, runIp(['link', 'set', 'dev', link.name, 'down']));
        await unlessGone(link.name, runIp(['link', 'set', 'dev', link.name, 'nomaster']));
      }
    },

    async removePorts(vmid) {
      for (const link of portsOf(await listLinks(), vmid)) await removeLink(link.name);
    },
  };
}

function findBridge(links: Link[], name: string, vmid: number): Link {
  const link = links.find((candidate) => candidate.name === name);
  if (link?.kind === 'bridge') return link;
  const found = link === undefined ? 'there is no such device' : 'that device is not a bridge';
  const names = links.filter((candidate) => candidate.kind === 'bridge').map((candidate) => candidate.name);
  throw new AppError(
    'missing',
    `ports of guest ${vmid}: bridge ${name}: ${found} on this node (bridges here: ${names.join(', ') || 'none'}); ` +
      `make the bridge or change the guest's network card`,
  );
}

async function createPort(name: string, bridge: Link, owner: { uid: number; gid: number }): Promise<void> {
  await runIp(['tuntap', 'add', 'dev', name, 'mode', 'tap', 'user', String(owner.uid), 'group', String(owner.gid)]);
  // The host itself must not talk on the guest's wire: no link-local address of its own there.
  await runIp(['link', 'set', 'dev', name, 'addrgenmode', 'none']);
  // A port with a smaller frame size than its bridge would lower the bridge's for everybody.
  await runIp(['link', 'set', 'dev', name, 'mtu', String(bridge.mtu), 'master', bridge.name, 'up']);
}

function portsOf(links: Link[], vmid: number): Link[] {
  return links.filter((link) => isPortOf(vmid, link.name));
}

function removeLink(name: string): Promise<void> {
  return unlessGone(name, runIp(['link', 'del', 'dev', name]));
}

/** What we wanted to change may have been removed by another call meanwhile. */
async function unlessGone(name: string, change: Promise<string>): Promise<void> {
  try {
    await change;
  } catch (error) {
    if ((await listLinks()).some((link) => link.name === name)) throw error;
  }
}
