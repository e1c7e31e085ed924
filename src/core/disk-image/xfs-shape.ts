/** What the superblock of an xfs says of its lay-out. */
export type XfsShape = {
  blockBytes: number;
  directoryBytes: number;
  inodeBytes: number;
  agBlocks: number;
  agBlockBits: number;
  inodeBits: number;
  isV5: boolean;
  hasFtype: boolean;
};
/** Where a block of the file system lies; its number names its group and its place there. */
export function placeOf(block: number, { agBlockBits, agBlocks, blockBytes }: XfsShape): number {
  const group = Math.floor(block / 2 ** agBlockBits);
  return (group * agBlocks + (block % 2 ** agBlockBits)) * blockBytes;
}
