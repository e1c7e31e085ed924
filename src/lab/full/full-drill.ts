import { writeFileSync } from 'node:fs';
import { formatErrorChain, isAppError } from '#base/error.ts';
import type { FullScene } from '#lab/drills/drill-names.ts';
import type { Say } from './founding.ts';
import { type CutSendResult, playCutSend } from './scenes/cut-send.ts';
import { type CycleResult, playCycle } from './scenes/cycle.ts';
import { type DiskResult, playDisk } from './scenes/disk.ts';
import { type DriverResult, playDriver } from './scenes/driver.ts';
import { type HungResult, playHung } from './scenes/hung.ts';
import { type PlugResult, playPlug } from './scenes/plug.ts';
import { playReset, type ResetResult } from './scenes/reset.ts';
import { playUpgrade, type UpgradeResult } from './scenes/upgrade.ts';
import type { Stage } from './stage.ts';

/** What `--json` writes. Every figure is a difference of two observed times or a count. */
export type FullResult = {
  /** Under software emulation the lenient profile is used. */
  profile: 'lenient';
  emulated: true;
  versions: Record<string, string>;
  upgrade: UpgradeResult | null;
  plug: PlugResult | null;
  disk: DiskResult | null;
  crash: ResetResult | null;
  guard: ResetResult | null;
  hung: HungResult | null;
  cutSend: CutSendResult | null;
  cycle: CycleResult | null;
  driver: DriverResult | null;
  brokenPromises: string[];
};

export type ScenesOptions = { scenes: FullScene[]; versions: Record<string, string>; jsonFile: string | null };

/** Plays the scenes one after the other; one that fails breaks a promise and the next is tried. The figures are written after each. */
export async function playScenes(stage: Stage, { scenes, versions, jsonFile }: ScenesOptions): Promise<FullResult> {
  const result: FullResult = {
    profile: 'lenient',
    emulated: true,
    versions,
    upgrade: null,
    plug: null,
    disk: null,
    crash: null,
    guard: null,
    hung: null,
    cutSend: null,
    cycle: null,
    driver: null,
    brokenPromises: [],
  };
  const save = () => {
    if (jsonFile !== null) writeFileSync(jsonFile, `${JSON.stringify(result, null, 2)}\n`);
  };
  const play = async <Field extends 'plug' | 'upgrade' | 'disk' | 'crash' | 'guard' | 'hung' | 'cutSend' | 'cycle' | 'driver'>(
    name: FullScene,
    field: Field,
    scene: () => Promise<NonNullable<FullResult[Field]>>,
  ): Promise<void> => {
    if (!scenes.includes(name)) return;
    stage.say(`— ${name}`);
    try {
      const seen = await scene();
      result[field] = seen;
      result.brokenPromises.push(...seen.broken.map((text) => `${name}: ${text}`));
    } catch (error) {
      if (!isAppError(error)) throw error;
      result.brokenPromises.push(`${name}: ${formatErrorChain(error)}`);
      stage.say(`FAILED: ${formatErrorChain(error)}`);
    } finally {
      save();
    }
  };
  await play('plug', 'plug', () => playPlug(stage));
  await play('upgrade', 'upgrade', () => playUpgrade(stage));
  await play('guard-stopped', 'guard', () => playReset(stage, 'guard-stopped'));
  await play('kernel-crash', 'crash', () => playReset(stage, 'kernel-crash'));
  await play('hung', 'hung', () => playHung(stage));
  await play('disk', 'disk', () => playDisk(stage));
  await play('cut-send', 'cutSend', () => playCutSend(stage));
  await play('cycle', 'cycle', () => playCycle(stage));
  await play('driver', 'driver', () => playDriver(stage));
  return result;
}

/** Prints what was measured and what did not hold. */
export function printResult(result: FullResult, say: Say): void {
  const seconds = (ms: number | undefined) => (ms === undefined ? 'not measured' : `${(ms / 1000).toFixed(2)} s`);
  const { upgrade, plug, disk, crash, guard, hung, cutSend, cycle, driver } = result;
  const megabytes = (bytes: number | undefined) => (bytes === undefined ? 'not measured' : `${Math.round(bytes / 2 ** 20)} MiB`);
  say('measured (software emulation, lenient profile):');
  say(
    `  upgrade of the package           ${seconds(upgrade?.tookMs)}, guest's process kept: ${upgrade === null ? '?' : upgrade.isGuestKept ? 'yes' : 'NO'}`,
  );
  say(`  plug to QEMU started             ${seconds(plug?.plugToStartMs)}, to guest heard ${seconds(plug?.plugToHeardMs)}`);
  say(`  age of the data at the loss      ${seconds(plug?.dataAgeMs)} (bound ${seconds(plug?.dataAgeBoundMs)})`);
  say(`  power back to serving            ${seconds(plug?.rejoinMs)}, tail kept: ${plug?.tail.name ?? 'no'}`);
  say(
    `  disk pulled to degraded          ${seconds(disk?.pulledToDegradedMs)}, node says so after ${seconds(disk?.pulledToToldMs)}`,
  );
  say(`  new disk resilvered in           ${seconds(disk?.resilverMs)}`);
  say(
    `  kernel crash to reset            ${seconds(crash?.faultToResetMs)}, to QEMU elsewhere ${seconds(crash?.faultToStartMs)}`,
  );
  say(
    `  guard stopped to reset           ${seconds(guard?.faultToResetMs)}, to QEMU elsewhere ${seconds(guard?.faultToStartMs)}`,
  );
  say(`  stream cut after                 ${megabytes(cutSend?.arrivedBytes)}, gone on with ${megabytes(cutSend?.resumedBytes)}`);
  say(
    `  hung to power off                ${seconds(hung?.hungToOffMs)}, to QEMU elsewhere ${seconds(hung?.hungToStartMs)}, claimed by ${hung?.proof ?? '?'}`,
  );
  say(
    `  cycle of ${megabytes(cycle?.changedBytes)}                  ${cycle?.ratio.toFixed(2) ?? '?'} times the bare pipeline and ${seconds(cycle?.constantMs)}`,
  );
  say(`  contract tests of the driver     ${driver?.passed ?? 0} passed, ${driver?.failed ?? 0} failed`);
  for (const promise of result.brokenPromises) say(`  BROKEN: ${promise}`);
  if (result.brokenPromises.length === 0) say('  every promise held');
}
