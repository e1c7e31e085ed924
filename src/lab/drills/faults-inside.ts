import { writeFileSync } from 'node:fs';
import { startWitness } from '#lab/drills/drill-guests.ts';
import type { DrillImages } from '#lab/drills/drill-lab.ts';
import { openDrillStore, switchQuarantineOff } from '#lab/drills/drill-store.ts';
import { cutLinks, rebootSwitch } from '#lab/drills/faults/cables.ts';
import { damageCopy } from '#lab/drills/faults/damaged-copy.ts';
import { fillReplicaDisk } from '#lab/drills/faults/disk-full.ts';
import { hideDisk } from '#lab/drills/faults/missing-disk.ts';
import { killAgent, killGuard, killRelays, pauseGuard, stopStoreLeader } from '#lab/drills/faults/processes.ts';
import { type FaultResult, nodeNames, type Scene } from '#lab/drills/faults/scene.ts';
import { startCollectorProcess } from '#lab/drills/measuring.ts';
import { startRunSampler } from '#lab/drills/run-sampler.ts';

export type FaultsInside = { lab: string; faults: string[]; jsonFile: string | null; images: DrillImages };

/** In this order: the quiet ones first, because the guest's longest write counts since its boot. */
const faults: Record<string, (scene: Scene) => Promise<FaultResult>> = {
  agent: killAgent,
  store: stopStoreLeader,
  relay: killRelays,
  'disk-full': fillReplicaDisk,
  switch: rebootSwitch,
  links: cutLinks,
  'guard-stop': pauseGuard,
  'guard-kill': killGuard,
  'damaged-copy': damageCopy,
  'missing-disk': hideDisk,
};

const intervalMs = 2_000;
const say = (text: string) => void process.stdout.write(`${text}\n`);

/** Runs inside the client namespace; see faults.ts. Returns the exit code. */
export async function measureFaults(options: FaultsInside): Promise<number> {
  await using store = openDrillStore(options.lab);
  const collector = await startCollectorProcess(options.lab);
  const sampler = startRunSampler(options.lab);
  const results: FaultResult[] = [];
  try {
    await switchQuarantineOff(store);
    await startWitness(options.lab, store, options.images.probe, 'n1', intervalMs);
    const scene: Scene = { lab: options.lab, store, collector, sampler, nodes: nodeNames(options.lab) };
    for (const [name, run] of Object.entries(faults)) {
      if (!options.faults.includes(name)) continue;
      const result = await run(scene);
      results.push(result);
      printFault(result);
    }
  } finally {
    sampler.stop();
    collector.kill();
    if (options.jsonFile !== null) writeFileSync(options.jsonFile, `${JSON.stringify(results, null, 2)}\n`);
  }
  return results.length === options.faults.length && results.every((result) => result.broken.length === 0) ? 0 : 1;
}

function printFault(result: FaultResult): void {
  say(`${result.broken.length === 0 ? 'held  ' : 'BROKEN'}  ${result.fault.padEnd(10)} ${result.promise}`);
  const figures = Object.entries(result.figures).map(([name, value]) => `${name} ${value}`);
  say(`        ${''.padEnd(10)} ${figures.join(', ')}`);
  for (const text of result.broken) say(`        ${''.padEnd(10)} broken: ${text}`);
}
