/**
 * A watchdog for tests, as a process of its own: reads the FIFO `--device`, answers `<device>.d/settimeout` with the next timeout the
 * "hardware" can do (`--min-seconds`, `--max-seconds`) in `<device>.d/timeout`, and says every byte it saw as a JSON line
 * {"byte", "atMs"} on the system's monotonic clock. It resets nobody.
 */
import { constants, openSync, readFileSync, readSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    device: { type: 'string', default: '' },
    'min-seconds': { type: 'string', default: '1' },
    'max-seconds': { type: 'string', default: '60' },
  },
});
const settings = `${values.device}.d`;
const fd = openSync(values.device, constants.O_RDWR | constants.O_NONBLOCK);
const buffer = Buffer.alloc(4096);
let answered = '';

function readPets(): void {
  try {
    const length = readSync(fd, buffer);
    const atMs = Number(process.hrtime.bigint()) / 1e6;
    for (const byte of buffer.subarray(0, length)) writeSync(1, `${JSON.stringify({ byte, atMs })}\n`);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error;
  }
}

function answerTimeout(): void {
  let text = '';
  try {
    text = readFileSync(`${settings}/settimeout`, 'utf8');
  } catch {
    return;
  }
  if (text === answered) return;
  answered = text;
  const seconds = Math.min(Math.max(Number(text), Number(values['min-seconds'])), Number(values['max-seconds']));
  writeFileSync(`${settings}/.timeout`, `${seconds}\n`);
  renameSync(`${settings}/.timeout`, `${settings}/timeout`);
}

setInterval(() => {
  readPets();
  answerTimeout();
}, 2);
writeSync(1, '{"ready":true}\n');
