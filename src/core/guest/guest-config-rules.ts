import { AppError } from '#base/error.ts';
import { parseDiskName } from '#base/ids.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';

/** What one guest may have. Disks and cards: as many as there are PCI slots kept for them. */
export const guestLimits = { cores: 128, memoryMb: { min: 16, max: 4 << 20 }, disks: 16, nics: 6, appendChars: 2000 } as const;

const macPattern = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
// The kernel's rules for the name of a network device.
const bridgePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$/;
const assetPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** Raises AppError invalid, naming the field, for a configuration that QEMU could not run or that would reach outside its folders. */
export function checkGuestConfig(config: GuestConfig): void {
  checkNumber('config.cores', config.cores, 1, guestLimits.cores);
  checkNumber('config.memoryMb', config.memoryMb, guestLimits.memoryMb.min, guestLimits.memoryMb.max);
  checkCount('config.disks', config.disks, guestLimits.disks);
  checkCount('config.nics', config.nics, guestLimits.nics);
  config.disks.forEach((disk, index) => parseDiskName(disk.name, `config.disks[${index}].name`));
  config.nics.forEach((nic, index) => checkNic(nic, `config.nics[${index}]`));
  checkDistinct(
    'config.disks',
    config.disks.map((disk) => disk.name),
  );
  checkDistinct(
    'config.nics',
    config.nics.map((nic) => nic.mac),
  );
  if (config.boot !== null) checkBoot(config.boot);
  else if (config.disks.length === 0) refuse('config.boot', 'the guest has neither a kernel nor a disk to start from');
}

function checkNic(nic: GuestConfig['nics'][number], field: string): void {
  if (!macPattern.test(nic.mac)) refuse(`${field}.mac`, `${JSON.stringify(nic.mac)} is not of the form 52:54:00:12:34:56`);
  const isGroupAddress = (Number.parseInt(nic.mac.slice(0, 2), 16) & 1) === 1;
  if (isGroupAddress) refuse(`${field}.mac`, `${nic.mac} is a group address; the first byte must be even`);
  if (!bridgePattern.test(nic.bridge)) refuse(`${field}.bridge`, `${JSON.stringify(nic.bridge)} is not the name of a bridge`);
}

function checkBoot(boot: NonNullable<GuestConfig['boot']>): void {
  checkAsset('config.boot.kernel', boot.kernel);
  if (boot.initrd !== null) checkAsset('config.boot.initrd', boot.initrd);
  if (boot.append.length > guestLimits.appendChars) {
    refuse('config.boot.append', `${boot.append.length} characters; at most ${guestLimits.appendChars}`);
  }
  // eslint-disable-next-line no-control-regex -- control characters are what is refused
  if (/[\u0000-\u001f]/.test(boot.append)) refuse('config.boot.append', 'contains a control character');
  if (/(^|\s)holdfast\.(vmid|generation)=/.test(boot.append)) {
    refuse('config.boot.append', 'holdfast.vmid and holdfast.generation are set at each start');
  }
}

function checkAsset(field: string, name: string): void {
  if (!assetPattern.test(name)) refuse(field, `${JSON.stringify(name)} is not the plain name of a file in the assets folder`);
}

function checkNumber(field: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max)
    refuse(field, `${value} is not a whole number from ${min} to ${max}`);
}

function checkCount(field: string, list: unknown[], max: number): void {
  if (list.length > max) refuse(field, `${list.length} of them; a guest has at most ${max}`);
}

function checkDistinct(field: string, names: string[]): void {
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) refuse(field, `${twice} appears twice`);
}

function refuse(field: string, because: string): never {
  throw new AppError('invalid', `${field}: ${because}`);
}
