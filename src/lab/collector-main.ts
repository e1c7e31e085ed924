import { parseArgs } from 'node:util';
import { formatErrorChain } from '#base/error.ts';
import { startCollector } from '#lab/collector.ts';
import { readControlLines } from '#lab/control-lines.ts';

/**
 * The collector as a process of its own, for the lab's client namespace.
 *
 * stdout, one JSON line each: `{"ready":true,"port":N}` once it listens; a report for each line `report` on stdin; a last report at `stop`, SIGTERM,
 * SIGINT or the end of stdin, then it ends.
 */
async function main(): Promise<void> {
  const { values } = parseArgs({ options: { bind: { type: 'string', default: '0.0.0.0:7700' }, file: { type: 'string' } } });
  if (values.file === undefined) throw new Error('--file FILE: where the datagrams are to be kept');
  const collector = await startCollector({ bind: values.bind, file: values.file });
  const tell = (): void => {
    process.stdout.write(`${JSON.stringify({ guests: collector.report(), strangers: collector.strangers() })}\n`);
  };
  const control = readControlLines((line) => (line === 'report' ? tell() : undefined));
  process.stdout.write(`${JSON.stringify({ ready: true, port: collector.port })}\n`);
  await control.stopped;
  tell();
  await collector.close();
  control.close();
}

main().catch((error: unknown) => {
  process.stderr.write(`collector: ${formatErrorChain(error)}\n`);
  process.exitCode = 1;
});
