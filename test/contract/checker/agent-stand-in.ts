import { createServer, type Socket } from 'node:net';
import type { TestContext } from 'node:test';

/** A guest agent on `path` that first sends what an earlier conversation left, then answers each command by `answer`. */
export async function listenAsAgent(
  t: TestContext,
  path: string,
  answer: (command: string) => string,
): Promise<{ heard: string[] }> {
  const heard: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.write('{"return": {"left": "over"}}\n');
    socket.on('data', (data) => {
      const lines = data
        .filter((byte) => byte !== 0xff)
        .toString()
        .trim()
        .split('\n');
      for (const line of lines) {
        heard.push(line);
        const id = /"guest-sync-delimited","arguments":\{"id":(\d+)/.exec(line)?.[1];
        if (id !== undefined) socket.write(Buffer.concat([Buffer.from([0xff]), Buffer.from(`{"return": ${id}}\n`)]));
        else socket.write(`${answer(line)}\n`);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { heard };
}
