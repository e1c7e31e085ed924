import { AppError } from '#base/error.ts';
import { parseDiskName, parseVmid, vmidRange } from '#base/ids.ts';
import { checkGuestConfig } from '#core/guest/guest-config-rules.ts';
import type { GuestConfig, GuestDisk, GuestNic, GuestRecord } from '#core/guest/guest-record.ts';
import { parseFields, parseWholeNumber } from '#core/text/fields.ts';
import { parseSize } from '#core/text/size.ts';

/** The options of `guest create` as they were typed. */
export type GuestOptions = {
  vmid?: string;
  name: string;
  cores: string;
  memory: string;
  disk: string[];
  nic: string[];
  kernel?: string;
  initrd?: string;
  append?: string;
};

export type WantedGuest = { vmid: number; name: string; config: GuestConfig; imports: Record<string, string> };

const mebibyte = 2 ** 20;
const namePattern = /^(?!\d+$)[a-zA-Z0-9][a-zA-Z0-9.-]{0,62}$/;

/**
 * Reads the options into a guest. Numbers and hardware addresses that were not given are chosen so that no guest of `existing` has
 * them; `chance` gives hexadecimal letters. Raises AppError invalid, naming the option; conflict when the number or name is taken.
 */
export function parseGuestOptions(
  options: GuestOptions,
  existing: GuestRecord[],
  chance: (letters: number) => string,
): WantedGuest {
  const disks = options.disk.map(parseDisk);
  const repeated = disks.find((disk, index) => disks.findIndex((other) => other.name === disk.name) !== index);
  if (repeated !== undefined) throw new AppError('invalid', `disk: ${repeated.name} is given twice`);
  const boot = parseBoot(options);
  if (disks.length === 0 && boot === null)
    throw new AppError('invalid', 'disk: a guest needs a disk (--disk disk0=10G) or a --kernel');
  const memoryBytes = parseSize(options.memory, 'memory');
  if (memoryBytes < 16 * mebibyte || memoryBytes % mebibyte !== 0) {
    throw new AppError('invalid', `memory: ${JSON.stringify(options.memory)} is not a whole number of MiB from 16M up`);
  }
  const config: GuestConfig = {
    cores: parseWholeNumber(options.cores, 'cores', 1, 1_024),
    memoryMb: memoryBytes / mebibyte,
    disks: disks.map(({ name, sizeBytes }): GuestDisk => ({ name, sizeBytes })),
    nics: parseNics(options.nic, existing, chance),
    boot,
  };
  checkGuestConfig(config);
  return {
    vmid: chooseVmid(options.vmid, existing),
    name: parseName(options.name, existing),
    config,
    imports: Object.fromEntries(disks.flatMap((disk) => (disk.importFile === null ? [] : [[disk.name, disk.importFile]]))),
  };
}

/** Reads `disk0=2G` or `disk0=2G,import=/path`. The size is a whole number of 64 KiB: replication counts in such pieces. */
function parseDisk(text: string): { name: string; sizeBytes: number; importFile: string | null } {
  const isDisk = (key: string) => key === 'import' || /^disk\d+$/.test(key);
  const fields = parseFields(text, 'disk', isDisk, 'disk0=SIZE[,import=FILE]');
  const names = [...fields.keys()].filter((key) => key !== 'import');
  const name = names[0];
  if (name === undefined || names.length > 1)
    throw new AppError('invalid', `disk: ${JSON.stringify(text)} must name one disk, e.g. disk0=2G`);
  const sizeBytes = parseSize(fields.get(name) ?? '', name);
  if (sizeBytes % 65_536 !== 0) throw new AppError('invalid', `${name}: the size ${sizeBytes} bytes is not a multiple of 64 KiB`);
  return { name: parseDiskName(name), sizeBytes, importFile: fields.get('import') ?? null };
}

function parseNics(texts: string[], existing: GuestRecord[], chance: (letters: number) => string): GuestNic[] {
  const taken = new Set(existing.flatMap((guest) => guest.config.nics.map((nic) => nic.mac)));
  return texts.map((text) => {
    const fields = parseFields(text, 'nic', (key) => key === 'bridge' || key === 'mac', 'bridge=BRIDGE[,mac=MAC]');
    const bridge = fields.get('bridge') ?? '';
    const mac = fields.get('mac')?.toLowerCase() ?? chooseMac(taken, chance);
    if (taken.has(mac)) throw new AppError('conflict', `nic: the hardware address ${mac} is in use already`);
    taken.add(mac);
    return { mac, bridge };
  });
}

function chooseMac(taken: Set<string>, chance: (letters: number) => string): string {
  for (;;) {
    const mac = `52:54:00:${chance(6).match(/../g)?.join(':') ?? ''}`;
    if (!taken.has(mac)) return mac;
  }
}

function parseBoot(options: GuestOptions): GuestConfig['boot'] {
  if (options.kernel === undefined) {
    const stray = options.initrd !== undefined ? 'initrd' : options.append !== undefined ? 'append' : null;
    if (stray !== null) throw new AppError('invalid', `${stray}: makes sense only with --kernel`);
    return null;
  }
  return { kernel: options.kernel, initrd: options.initrd ?? null, append: options.append ?? '' };
}

function parseName(name: string, existing: GuestRecord[]): string {
  if (!namePattern.test(name)) {
    throw new AppError(
      'invalid',
      `name: ${JSON.stringify(name)} is not a guest's name (letters, digits, dots and dashes, at most 63, not a number)`,
    );
  }
  const other = existing.find((guest) => guest.name === name);
  if (other !== undefined) throw new AppError('conflict', `name: guest ${other.vmid} is named ${name} already`);
  return name;
}

function chooseVmid(text: string | undefined, existing: GuestRecord[]): number {
  const taken = new Set(existing.map((guest) => guest.vmid));
  if (text !== undefined) {
    const vmid = parseVmid(text);
    if (taken.has(vmid)) throw new AppError('conflict', `vmid: there is a guest ${vmid} already`);
    return vmid;
  }
  let vmid: number = vmidRange.min;
  while (taken.has(vmid)) vmid += 1;
  return vmid;
}
