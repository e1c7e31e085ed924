import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { readHypervisorFeatures, type HypervisorFeatures } from '#core/guest/qmp-schema.ts';
import type { Qmp } from '#ports/qmp.ts';
import { waitForQmp, type ConnectQmp } from './qmp-wait.ts';
import { plainEnvironment } from './unprivileged.ts';

/** Asks a running QEMU what it can do. */
async function readFeatures(qmp: Qmp): Promise<HypervisorFeatures> {
  return readHypervisorFeatures(await qmp.execute('query-qmp-schema'));
}

/** Asks a QEMU that is started for the purpose, without a guest. Raises AppError unavailable/timeout when it does not answer. */
export async function probeFeatures(params: {
  qemu: string;
  runDir: string;
  connectQmp: ConnectQmp;
}): Promise<HypervisorFeatures> {
  const folder = mkdtempSync(`${params.runDir}/schema-`);
  const socketPath = `${folder}/qmp.sock`;
  const args = '-machine none -nodefaults -no-user-config -display none -S -qmp'.split(' ');
  const child = spawn(params.qemu, [...args, `unix:${socketPath},server=on,wait=off`], {
    stdio: 'ignore',
    env: plainEnvironment(),
  });
  const gone = Promise.withResolvers<string>();
  child.once('exit', (code) => gone.resolve(`exit code ${code}`));
  child.once('error', (error) => gone.resolve(error.message));
  try {
    const qmp = await waitForQmp({
      connectQmp: params.connectQmp,
      socketPath,
      gone: gone.promise,
      deadlineMs: limits.qemuStartMs,
    });
    try {
      return await readFeatures(qmp);
    } finally {
      qmp.close();
    }
  } catch (cause) {
    throw new AppError('unavailable', `probe ${params.qemu}: it does not tell its features`, { cause });
  } finally {
    child.kill('SIGKILL');
    await gone.promise;
    rmSync(folder, { recursive: true, force: true });
  }
}
