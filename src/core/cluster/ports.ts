/** Ports that nodes reach each other at. */
export const clusterPorts = { storeClient: 2379, storePeer: 2380, relay: 7711, joinDoor: 7712 } as const;

/** `https://ADDRESS:PORT`, with the brackets that IPv6 needs. */
export function formatHttps(address: string, port: number): string {
  return `https://${address.includes(':') ? `[${address}]` : address}:${port}`;
}
