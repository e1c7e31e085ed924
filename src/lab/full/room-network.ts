import { writeFileSync } from 'node:fs';
import { runIpBatch } from '#lab/command.ts';

/**
 * The full lab's network, made in the network namespace of this process: a virtual switch with a tap for each machine. The room itself is at the
 * switch too, with the address that clients use, and so are the machines' management controllers, as on a network card of their own.
 *
 *   n1: br0 - eth0 === t1 |                    | room      10.77.0.254
 *   n2: br0 - eth0 === t2 |- sw0 (the bridge) -| bmc of n1 10.77.0.11 …
 */
export const roomNetwork = { address: '10.77.0.254', prefixLength: 24, prefix: '10.77.0.', firstController: 11 } as const;

/** How the machine with this number (from 1) is wired. */
export function wireMachine(number: number): { address: string; tap: string; mac: string; controllerAddress: string } {
  return {
    address: `${roomNetwork.prefix}${number}`,
    tap: `t${number}`,
    mac: `02:00:0a:4d:00:0${number}`,
    controllerAddress: `${roomNetwork.prefix}${roomNetwork.firstController + number - 1}`,
  };
}

/** Builds the switch with taps and addresses. The namespace must be this process's own: it has an interface called sw0 then. */
export async function buildRoomNetwork(machines: { tap: string; controllerAddress: string }[]): Promise<void> {
  for (const [file, value] of [
    ['/proc/sys/net/ipv6/conf/all/disable_ipv6', '1'],
    ['/proc/sys/net/ipv6/conf/default/disable_ipv6', '1'],
    // Bridged frames are for no packet filter; not there where the bridge's filter is not loaded.
    ['/proc/sys/net/bridge/bridge-nf-call-iptables', '0'],
  ] as const) {
    try {
      writeFileSync(file, value);
    } catch {
      continue;
    }
  }
  await runIpBatch('full lab: building its switch', null, [
    'link set lo up',
    'link add sw0 address 02:00:0a:4d:00:fd type bridge forward_delay 0 mcast_snooping 0',
    ...[roomNetwork.address, ...machines.map(({ controllerAddress }) => controllerAddress)].map(
      (address) => `address add ${address}/${roomNetwork.prefixLength} dev sw0`,
    ),
    'link set sw0 up',
    ...machines.flatMap(({ tap }) => [`tuntap add ${tap} mode tap`, `link set ${tap} master sw0 up`]),
  ]);
}
