import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { nodeBytes } from '#adapters/bytes/node-bytes.ts';
import { deriveCryptKey } from '#core/backup/crypt-key.ts';
import { formatKeyFile, makeKeyFile } from '#core/backup/key-file.ts';
import { waitUntil } from '#lab/drills/drill-store.ts';
import { labContext } from '#lab/lab.ts';
import { nodePaths } from '#lab/lab-paths.ts';
import { hashSecret } from '#programs/backup/access.ts';

/** A backup server where the lab's clients are. `stores` lie side by side under `folder`; `small` is a disk that fills up soon. */
export type Vault = {
  folder: string;
  address: string;
  fingerprint: string;
  repository: (store: VaultStore) => string;
  signal: (name: NodeJS.Signals) => void;
  start: () => Promise<void>;
  end: () => Promise<void>;
};

export const vaultStores = ['plain', 'sealed', 'small'] as const;
export type VaultStore = (typeof vaultStores)[number];

/** What the nodes have in their secrets folder. */
export const vaultSecrets = { password: 'vault-password', key: 'vault-key', otherKey: 'vault-other-key' } as const;
export const secretPath = (name: string): string => `/etc/holdfast/secrets/${name}`;

const port = 8007;
const smallMebibytes = 32;
const elsewhereNice = 19;

/** Makes the server's files and the nodes' secrets, and starts it. */
export async function openVault(lab: string): Promise<Vault> {
  // A store begins with 65,536 folders: in memory where that is possible.
  const folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'holdfast-vault-'));
  mkdirSync(join(folder, 'small'), { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${smallMebibytes}m`, 'tmpfs', join(folder, 'small')]);
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const order = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=vault -days 2'.split(' ');
  execFileSync('openssl', [...order, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  const secret = randomBytes(16).toString('hex');
  const { clientAddress: address, nodes } = labContext(lab);
  writeFileSync(join(folder, 'vault.toml'), configuration(folder, address, hashSecret(secret)));
  const keys = { [vaultSecrets.key]: dataKey(), [vaultSecrets.otherKey]: dataKey() };
  for (const node of nodes) {
    const secrets = join(nodePaths(lab, node.name).etc, 'secrets');
    const options = { mode: 0o600 };
    writeFileSync(join(secrets, vaultSecrets.password), `${secret}\n`, options);
    for (const [name, text] of Object.entries(keys)) writeFileSync(join(secrets, name), text, options);
  }
  let child: ChildProcess | null = null;
  const main = fileURLToPath(new URL('../../../programs/backup/main.ts', import.meta.url));
  const vault: Vault = {
    folder,
    address,
    fingerprint: new X509Certificate(readFileSync(cert)).fingerprint256.toLowerCase(),
    repository: (store) => `drill@pbs!node@${address}:${port}:${store}`,
    signal: (name) => void child?.kill(name),
    async start() {
      child = spawn(process.execPath, [main, '--config', join(folder, 'vault.toml'), '--create'], {
        stdio: ['ignore', 'ignore', 'inherit'],
      });
      // It stands for another machine: what it does must not cost the guests here their processor.
      if (child.pid !== undefined) setPriority(child.pid, elsewhereNice);
      await waitUntil('the backup server to listen', 120_000, async () => ((await canConnect(address)) ? true : null));
    },
    async end() {
      const ending = child;
      if (ending !== null && ending.exitCode === null && ending.signalCode === null) {
        const gone = new Promise((resolve) => ending.once('exit', resolve));
        ending.kill('SIGKILL');
        await gone;
      }
      execFileSync('sh', ['-c', 'umount "$1" 2>/dev/null; true', 'umount', join(folder, 'small')]);
      rmSync(folder, { recursive: true, force: true });
    },
  };
  await vault.start();
  return vault;
}

function dataKey(): string {
  const key = deriveCryptKey(Uint8Array.from(randomBytes(32)), nodeBytes);
  const now = new Date().toISOString();
  return formatKeyFile(makeKeyFile(key, null, { created: now, modified: now, hint: null }, nodeBytes));
}

function configuration(folder: string, address: string, hash: string): string {
  const stores = vaultStores.map(
    (name) => `[[datastore]]\nname = "${name}"\npath = "${join(folder, name, 'store')}"\nreserve-mib = 1\n`,
  );
  const acl = vaultStores.map(
    (name) => `[[acl]]\npath = "/datastore/${name}"\nwho = "drill@pbs!node"\nrole = "DatastorePowerUser"\n`,
  );
  const user = vaultStores.map(
    (name) => `[[acl]]\npath = "/datastore/${name}"\nwho = "drill@pbs"\nrole = "DatastorePowerUser"\n`,
  );
  return [
    `[server]\nname = "vault"\naddress = "${address}"\nport = ${port}\ncert = "cert.pem"\nkey = "key.pem"\nticket-key = "ticket"\n`,
    ...stores,
    `[[account]]\nid = "drill@pbs!node"\nsecret-hash = "${hash}"\n`,
    `[[account]]\nid = "drill@pbs"\nsecret-hash = "${hash}"\n`,
    ...acl,
    ...user,
  ].join('\n');
}

function canConnect(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    const tell = (yes: boolean): void => {
      socket.destroy();
      resolve(yes);
    };
    socket.once('connect', () => tell(true)).once('error', () => tell(false));
  });
}
