import { readI64, readU64, viewOf } from './bytes.ts';

/**
 * Items of a pxar archive: header {type u64, size u64 with these 16}, then content.
 *
 *     root      = ENTRY metadata* child* GOODBYE
 *     child     = FILENAME (directory | file | other | HARDLINK)
 *     directory = ENTRY metadata* child* GOODBYE      file = ENTRY metadata* (PAYLOAD | PAYLOAD_REF)
 *     other     = ENTRY metadata* (SYMLINK | DEVICE | nothing)
 */
export const pxarType = {
  formatVersion: 0x730f_6c75_df16_a40dn,
  entry: 0xd595_6474_e588_acefn,
  fileName: 0x1670_1121_0639_17b3n,
  symlink: 0x27f9_71e7_dbf5_dc5fn,
  device: 0x9fc9_e906_586d_5ce9n,
  xattr: 0x0dab_0229_b57d_cd03n,
  fcaps: 0x2da9_dd9d_b5f7_fb67n,
  hardlink: 0x5126_9c84_22bd_7275n,
  payload: 0x2814_7a1b_0b7c_1a25n,
  payloadRef: 0x419d_3d6b_c4ba_977en,
  payloadStart: 0x834c_68c2_194a_4ed2n,
  goodbye: 0x2fec_4fa6_42d5_731dn,
  goodbyeTail: 0xef5e_ed5b_753e_1555n,
  // These are the format's own name hashes of their labels, as those of xattr, fcaps and others above are.
  prelude: 0xe309_d79d_9f7b_771bn,
  aclUser: 0x2ce8_540a_457d_55b8n,
  aclGroup: 0x136e_3ece_b04c_03abn,
  aclGroupObject: 0x1086_8031_e958_2876n,
  aclDefault: 0xbbbb_1341_5a68_96f5n,
  aclDefaultUser: 0xc893_57b4_0532_cd1fn,
  aclDefaultGroup: 0xf90a_8a58_1603_8ffen,
  quotaProject: 0xe075_40e8_2f7d_1cbbn,
} as const;

/** Items that may stand between an ENTRY and its content. */
export const metadataTypes: ReadonlySet<bigint> = new Set<bigint>([
  pxarType.xattr,
  pxarType.fcaps,
  pxarType.aclUser,
  pxarType.aclGroup,
  pxarType.aclGroupObject,
  pxarType.aclDefault,
  pxarType.aclDefaultUser,
  pxarType.aclDefaultGroup,
  pxarType.quotaProject,
]);

export const itemHeaderBytes = 16;
export const entryContentBytes = 40;
export const goodbyeItemBytes = 24;

export const pxarLimits = {
  nameBytes: 255,
  pathBytes: 4096,
  /** One extended attribute with its name, the largest metadata there is. */
  metadataBytes: 128 * 1024,
  metadataItems: 4096,
  preludeBytes: 1024 * 1024,
  depth: 2048,
} as const;

/** Type bits of a mode. */
export const modeType = {
  mask: 0o170000,
  socket: 0o140000,
  symlink: 0o120000,
  file: 0o100000,
  blockDevice: 0o060000,
  directory: 0o040000,
  charDevice: 0o020000,
  fifo: 0o010000,
} as const;

/** `mode` with its type bits. */
export type PxarStat = { mode: number; flags: bigint; uid: number; gid: number; mtimeSeconds: number; mtimeNanos: number };

/** An extended attribute, ACL entry, capability set or quota project, as it lies in the archive. */
export type PxarMetadata = { type: bigint; content: Uint8Array };

export type PayloadRef = { offset: number; sizeBytes: number };

/** The content of an entry item; it must be of `entryContentBytes`. */
export function readPxarStat(content: Uint8Array): PxarStat {
  const view = viewOf(content);
  return {
    mode: readU64(view, 0, 'archive: mode'),
    flags: view.getBigUint64(8, true),
    uid: view.getUint32(16, true),
    gid: view.getUint32(20, true),
    mtimeSeconds: readI64(view, 24, 'archive: mtime'),
    mtimeNanos: view.getUint32(32, true),
  };
}
