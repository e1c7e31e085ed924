const mask = 0xffff_ffff_ffff_ffffn;
/** The keys of the goodbye tables. */
const k0 = 0x83ac_3f1c_fbb4_50dbn;
const k1 = 0xaa4f_1b68_7936_9fbdn;

/** SipHash-2-4 with the archive format's keys: the hash of a file name in its directory's goodbye table. */
export function hashFileName(name: Uint8Array): bigint {
  const lanes = [
    k0 ^ 0x736f_6d65_7073_6575n,
    k1 ^ 0x646f_7261_6e64_6f6dn,
    k0 ^ 0x6c79_6765_6e65_7261n,
    k1 ^ 0x7465_6462_7974_6573n,
  ];
  const v = lanes as [bigint, bigint, bigint, bigint];
  const padded = new Uint8Array(Math.floor(name.length / 8) * 8 + 8);
  padded.set(name);
  padded[padded.length - 1] = name.length & 255;
  const view = new DataView(padded.buffer);
  for (let at = 0; at < padded.length; at += 8) {
    const word = view.getBigUint64(at, true);
    v[3] ^= word;
    mix(v, 2);
    v[0] ^= word;
  }
  v[2] ^= 0xffn;
  mix(v, 4);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

function mix(v: [bigint, bigint, bigint, bigint], rounds: number): void {
  for (let round = 0; round < rounds; round += 1) {
    v[0] = (v[0] + v[1]) & mask;
    v[1] = rotate(v[1], 13n) ^ v[0];
    v[0] = rotate(v[0], 32n);
    v[2] = (v[2] + v[3]) & mask;
    v[3] = rotate(v[3], 16n) ^ v[2];
    v[0] = (v[0] + v[3]) & mask;
    v[3] = rotate(v[3], 21n) ^ v[0];
    v[2] = (v[2] + v[1]) & mask;
    v[1] = rotate(v[1], 17n) ^ v[2];
    v[2] = rotate(v[2], 32n);
  }
}

function rotate(value: bigint, by: bigint): bigint {
  return ((value << by) | (value >> (64n - by))) & mask;
}
