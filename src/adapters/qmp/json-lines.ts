/**
 * Cuts a byte stream into lines. Feed each chunk; get back the whole lines it completed, without line ends, empty ones left out.
 * A line longer than `maxBytes` makes `feed` throw RangeError: the peer does not speak the protocol, or we lost our place.
 */
export function createLineCutter(maxBytes: number): { feed(chunk: Buffer): string[] } {
  let parts: Buffer[] = [];
  let heldBytes = 0;

  function hold(part: Buffer): void {
    heldBytes += part.length;
    if (heldBytes > maxBytes) throw new RangeError(`a line of more than ${maxBytes} bytes`);
    parts.push(part);
  }

  function feed(chunk: Buffer): string[] {
    const lines: string[] = [];
    let from = 0;
    for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, from)) {
      hold(chunk.subarray(from, end));
      const line = Buffer.concat(parts).toString('utf8').trim();
      if (line !== '') lines.push(line);
      parts = [];
      heldBytes = 0;
      from = end + 1;
    }
    if (from < chunk.length) hold(chunk.subarray(from));
    return lines;
  }

  return { feed };
}
