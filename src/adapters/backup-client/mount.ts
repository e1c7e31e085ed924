import { close, openSync, read, writeSync } from 'node:fs';
import { AppError } from '#base/error.ts';
import type { BrowsableNode, BrowsableTree } from './browsable.ts';
import {
  decodeRead,
  decodeRequest,
  encodeAnswer,
  encodeAttributesAnswer,
  encodeDirectory,
  encodeEntry,
  encodeFileSystem,
  encodeInit,
  encodeOpen,
  encodeSized,
  errnos,
  opcodes,
  requestBytes,
  type FuseRequest,
} from './fuse-wire.ts';
import { mountFuse, unmountLazily } from './native.ts';

type Answer = { errno: number; content: Uint8Array } | 'none';
const fine = (content: Uint8Array = new Uint8Array()): Answer => ({ errno: 0, content });
const failed = (errno: number): Answer => ({ errno, content: new Uint8Array() });

/**
 * Mounts `tree` on `directory`, read-only, for the user who mounts it alone, and serves it until it is unmounted or `signal` aborts. What cannot
 * be read is an I/O error for whoever reads, and `onTrouble` hears why. Raises AppError when it cannot be mounted.
 */
export async function serveMount(
  directory: string,
  tree: BrowsableTree,
  totalBytes: number,
  { signal, onMounted, onTrouble }: { signal: AbortSignal; onMounted: () => void; onTrouble: (error: unknown) => void },
): Promise<void> {
  const fd = mountAt(directory);
  const server = new MountServer(tree, totalBytes, onTrouble);
  const unmount = (): void => {
    try {
      unmountLazily(directory);
    } catch {
      // Somebody was faster.
    }
  };
  try {
    if (signal.aborted) unmount();
    signal.addEventListener('abort', unmount, { once: true });
    onMounted();
    for (;;) {
      const request = await nextRequest(fd);
      if (request === null) return;
      void server.answer(request).then((answer) => {
        if (answer !== 'none') reply(fd, request.unique, answer);
      });
    }
  } finally {
    signal.removeEventListener('abort', unmount);
    unmount();
    close(fd);
  }
}

function mountAt(directory: string): number {
  let fd: number;
  try {
    fd = openSync('/dev/fuse', 'r+');
  } catch (cause) {
    throw new AppError('unsupported', `mounting on ${directory}: /dev/fuse cannot be opened (is the module fuse loaded?)`, {
      cause,
    });
  }
  try {
    const owner = `user_id=${process.geteuid?.() ?? 0},group_id=${process.getegid?.() ?? 0}`;
    mountFuse(directory, fd, `rootmode=40000,${owner},default_permissions`);
    return fd;
  } catch (cause) {
    close(fd);
    throw new AppError('denied', `mounting on ${directory}: it must be a directory, and only root may mount`, { cause });
  }
}

/** null: it is mounted no longer. */
function nextRequest(fd: number): Promise<FuseRequest | null> {
  return new Promise((resolve, reject) => {
    const ask = (): void => {
      read(fd, Buffer.allocUnsafe(requestBytes), 0, requestBytes, null, (error, bytes, buffer) => {
        if (error === null) return resolve(decodeRequest(buffer.subarray(0, bytes)));
        if (error.code === 'ENODEV') return resolve(null);
        // A request that was taken back, or a signal.
        if (error.code === 'ENOENT' || error.code === 'EINTR' || error.code === 'EAGAIN') return ask();
        reject(new AppError('unavailable', 'the mount: the kernel asks no longer', { cause: error }));
      });
    };
    ask();
  });
}

function reply(fd: number, unique: bigint, answer: Exclude<Answer, 'none'>): void {
  try {
    writeSync(fd, encodeAnswer(unique, answer.errno, answer.content));
  } catch {
    // Nobody waits for it any more: it was interrupted or unmounted.
  }
}

class MountServer {
  readonly #tree: BrowsableTree;
  readonly #totalBytes: number;
  readonly #onTrouble: (error: unknown) => void;
  readonly #nodes = new Map<number, BrowsableNode>();
  readonly #names = new Map<number, Map<string, BrowsableNode>>();

  constructor(tree: BrowsableTree, totalBytes: number, onTrouble: (error: unknown) => void) {
    this.#tree = tree;
    this.#totalBytes = totalBytes;
    this.#onTrouble = onTrouble;
    this.#nodes.set(tree.root.id, tree.root);
  }

  async answer(request: FuseRequest): Promise<Answer> {
    try {
      return await this.#carryOut(request);
    } catch (error) {
      this.#onTrouble(error);
      return failed(errnos.EIO);
    }
  }

  async #carryOut({ opcode, node: id, body }: FuseRequest): Promise<Answer> {
    switch (opcode) {
      case opcodes.init:
        return fine(encodeInit());
      case opcodes.forget:
      case opcodes.batchForget:
      case opcodes.interrupt:
        return 'none';
      case opcodes.statfs:
        return fine(encodeFileSystem(this.#totalBytes));
      case opcodes.release:
      case opcodes.releasedir:
      case opcodes.flush:
      case opcodes.destroy:
        return fine();
      default:
    }
    const node = this.#nodes.get(id);
    if (node === undefined) return failed(errnos.ENOENT);
    switch (opcode) {
      case opcodes.lookup:
        return this.#lookup(node, body.subarray(0, -1));
      case opcodes.getattr:
        return fine(encodeAttributesAnswer(node));
      case opcodes.readlink:
        return node.target === null ? failed(errnos.EIO) : fine(node.target);
      case opcodes.open:
      case opcodes.opendir:
        return fine(encodeOpen(opcode === opcodes.opendir));
      case opcodes.read: {
        const { offset, bytes } = decodeRead(body);
        return fine(await this.#tree.read(node, offset, bytes));
      }
      case opcodes.readdir:
        return this.#readDirectory(node, decodeRead(body));
      case opcodes.getxattr:
        return getXattr(node, body);
      case opcodes.listxattr: {
        const names = node.xattrs.map(({ name }) => Buffer.concat([name, Buffer.alloc(1)]));
        return sized(Buffer.concat(names), body.readUInt32LE(0));
      }
      default:
        return failed(errnos.ENOSYS);
    }
  }

  async #lookup(directory: BrowsableNode, name: Uint8Array): Promise<Answer> {
    const found = (await this.#namesOf(directory)).get(Buffer.from(name).toString('latin1'));
    return found === undefined ? failed(errnos.ENOENT) : fine(encodeEntry(found));
  }

  async #readDirectory(directory: BrowsableNode, { offset, bytes }: { offset: number; bytes: number }): Promise<Answer> {
    const names = [...(await this.#namesOf(directory))];
    const entries = names.map(([name, { id, stat }]) => ({ name: Buffer.from(name, 'latin1'), id, mode: stat.mode }));
    const { id, stat } = directory;
    const dots = ['.', '..'].map((name) => ({ name: Buffer.from(name), id, mode: stat.mode }));
    return fine(encodeDirectory([...dots, ...entries], offset, bytes));
  }

  async #namesOf(directory: BrowsableNode): Promise<Map<string, BrowsableNode>> {
    const known = this.#names.get(directory.id);
    if (known !== undefined) return known;
    const names = new Map<string, BrowsableNode>();
    for (const { name, node } of await this.#tree.list(directory)) {
      names.set(Buffer.from(name).toString('latin1'), node);
      this.#nodes.set(node.id, node);
    }
    this.#names.set(directory.id, names);
    return names;
  }
}

function getXattr({ xattrs }: BrowsableNode, body: Buffer): Answer {
  const name = body.subarray(8, -1);
  const found = xattrs.find((xattr) => name.equals(xattr.name));
  return found === undefined ? failed(errnos.ENODATA) : sized(found.value, body.readUInt32LE(0));
}

function sized(value: Uint8Array, roomBytes: number): Answer {
  const content = encodeSized(value, roomBytes);
  return content === null ? failed(errnos.ERANGE) : fine(content);
}
