import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { labContext } from '#lab/lab.ts';

/** New lines on a guest's serial port on any node since the tail was started, with the time at which they were seen. */
export type SerialTail = { read(): { node: string; line: string; atMs: number }[] };

export function tailSerial(lab: string, vmid: number): SerialTail {
  const files = labContext(lab).nodes.map((node) => ({
    node: node.name,
    path: join(node.folders.data, 'guests', String(vmid), 'serial.log'),
    offset: 0,
    rest: '',
  }));
  const readNew = (file: (typeof files)[number]): string => {
    let fd: number;
    try {
      fd = openSync(file.path, 'r');
    } catch {
      return ''; // the guest has not run there yet
    }
    try {
      const sizeBytes = fstatSync(fd).size;
      if (sizeBytes < file.offset) file.offset = 0;
      const buffer = Buffer.alloc(Math.min(sizeBytes - file.offset, 1 << 20));
      const length = buffer.length === 0 ? 0 : readSync(fd, buffer, 0, buffer.length, file.offset);
      file.offset += length;
      return buffer.toString('latin1', 0, length);
    } finally {
      closeSync(fd);
    }
  };
  for (const file of files) while (readNew(file) !== '') continue;
  return {
    read() {
      const atMs = Date.now();
      return files.flatMap((file) => {
        const lines = `${file.rest}${readNew(file)}`.split('\n');
        file.rest = lines.pop() ?? '';
        return lines.map((line) => ({ node: file.node, line: line.trim(), atMs }));
      });
    },
  };
}
