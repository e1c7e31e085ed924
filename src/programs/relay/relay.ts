import { mkdir, rm } from 'node:fs/promises';
import { runPaths } from '#programs/replication/paths.ts';
import { createAcceptor } from './acceptor.ts';
import { createControl } from './control.ts';
import { createDialer } from './dialer.ts';
import type { RelayPatience } from './patience.ts';
import { readIdentity, type TlsFiles } from './tls.ts';

export type RelayOptions = {
  run: string;
  address: string;
  port: number;
  tls: TlsFiles;
  /** Who may connect to tunnel sockets besides root: the user QEMU runs as. */
  user: { uid: number; gid: number } | null;
  patience: RelayPatience;
  log: (text: string) => void;
};

/** Starts a node's relay and returns when it listens. Raises AppError missing (certificates) and what listening raises. */
export async function startRelay(options: RelayOptions): Promise<{ close(): void }> {
  const identity = readIdentity(options.tls);
  const directory = runPaths.relayTunnels(options.run);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const dialer = createDialer({ identity, directory, user: options.user, patience: options.patience, log: options.log });
  const acceptor = createAcceptor({ identity, run: options.run, patience: options.patience, log: options.log });
  const control = createControl({ open: (order) => dialer.open(order), log: options.log });
  const path = runPaths.relayControl(options.run);
  await rm(path, { force: true });
  await acceptor.listen(options.address, options.port);
  await new Promise<void>((resolve, reject) => {
    control.once('error', reject);
    control.listen({ path, readableAll: false, writableAll: false }, () => resolve());
  });
  return {
    close() {
      acceptor.close();
      control.close();
      dialer.close();
    },
  };
}
