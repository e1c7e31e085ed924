import { readFileSync, writeFileSync } from 'node:fs';

/** The machine code of number-guest.S, which says what it does and how to make these bytes from it. */
const code = Buffer.from(
  'fa31c08ed88ec08ed0bc007cfb88168d7cb442e85200ba0206b80001ef66ff06008066a100806625ff0300006683c00266a3857cb443e838' +
    '00b443e82a00b48631c9baa00fcd15ba0006edf6c40174cd66c706048042594521b443e80a00ba0406b80020eff4ebfd66c706857c010000' +
    '0030c08a168d7cbe7d7ccd13c3100001000080',
  'hex',
);

export const numberDisk = { name: 'disk0', sizeBytes: 1 << 20 } as const;

const sectorBytes = 512;
const slots = 1024;

/** Writes the guest's disk as it is before its first start. */
export function writeNumberDisk(path: string): void {
  const disk = Buffer.alloc(numberDisk.sizeBytes);
  code.copy(disk);
  disk.writeUInt16LE(0xaa55, sectorBytes - 2);
  writeFileSync(path, disk);
}

/** `saidBye`: it has powered off by itself. `consistent`: every number up to the newest one is where it belongs. */
export type Numbers = { newest: number; saidBye: boolean; consistent: boolean };

/** What the guest has written on a raw image of its disk. */
export function readNumbers(path: string): Numbers {
  const disk = readFileSync(path);
  const newest = disk.readUInt32LE(sectorBytes);
  const saidBye = disk.readUInt32LE(sectorBytes + 4) === 0x21455942;
  let consistent = true;
  // The oldest slot may hold the number that comes next already.
  for (let number = Math.max(1, newest - slots + 2); number <= newest; number += 1) {
    if (disk.readUInt32LE((2 + (number % slots)) * sectorBytes) !== number) consistent = false;
  }
  return { newest, saidBye, consistent };
}
