import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fullLimits } from './full-limits.ts';
import { type MachineDisk, machineFile, type MachineSpec } from './machine-command.ts';

/** Makes an empty data disk's file. `number`: of its slot, from 1, with what tells it from earlier ones in that slot. */
export function makeDisk(spec: MachineSpec, number: string, serial: string): MachineDisk {
  const file = join(spec.folder, `disk${number}.raw`);
  writeFileSync(file, '');
  truncateSync(file, fullLimits.diskBytes);
  return { id: `disk${number.split('-')[0]}`, file, serial };
}

/** Remembers what sits in a machine's slots. */
export function writeDisks(spec: MachineSpec, disks: readonly MachineDisk[]): void {
  writeFileSync(machineFile(spec, 'disks.json'), JSON.stringify(disks));
}

/** What an earlier drill left in a machine's slots. */
export function readDisks(spec: MachineSpec): MachineDisk[] {
  return JSON.parse(readFileSync(machineFile(spec, 'disks.json'), 'utf8')) as MachineDisk[];
}

/** QEMU's arguments for the read-only disk that the room gives to every machine. */
export function formatStick(file: string): string[] {
  const drive = `if=none,id=stick-file,format=raw,readonly=on,file=${file}`;
  return ['-drive', drive, '-device', 'virtio-blk-pci,drive=stick-file,serial=stick'];
}
