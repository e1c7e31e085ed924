import type { CryptMode } from '#core/backup/manifest.ts';
import type { CryptKey } from '#core/backup/crypt-key.ts';

/** What a worker that handles chunks is told, by the number of the chunk. Buffers change hands: whoever sent one has it no longer. */
export type ChunkOrder =
  /** Read a piece of the image behind `fd`, take its digest and hold it. */
  | { kind: 'read'; number: number; fd: number; at: number; bytes: number }
  /** Take the digest of what is in `room` and hold it. */
  | { kind: 'take'; number: number; room: ArrayBuffer; bytes: number }
  /** Put what is held into its envelope, or let it go. */
  | { kind: 'encode' | 'drop'; number: number }
  /** Take a chunk out of its envelope and check it; with `target` it is written there, else given back. */
  | { kind: 'open'; number: number; encoded: Uint8Array; expected: ExpectedChunk; target: (TargetFile & { at: number }) | null };
/** `direct`: the same file, written to past the page cache; null: it cannot be. */
export type TargetFile = { fd: number; direct: number | null };
export type ExpectedChunk = { digest: Uint8Array; sizeBytes: number; cryptMode: CryptMode; name: string };

/** What it answers. `room`: a buffer that came with `take`, to be filled again. */
export type ChunkAnswer = { number: number } & (
  | { kind: 'digest'; digest: Uint8Array; sizeBytes: number }
  | { kind: 'encoded'; encoded: Uint8Array; room: ArrayBuffer | null }
  | { kind: 'dropped'; room: ArrayBuffer | null }
  | { kind: 'opened'; data: Uint8Array | null }
  | { kind: 'trouble'; error: Trouble }
);
/** An error on its way from a thread to another: `kind` null is none that was expected. */
export type Trouble = { kind: string | null; message: string; cause: string | null };
export type ChunkWorkerData = { key: CryptKey | null };
