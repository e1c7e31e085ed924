/** Rows as the client knows them, and what a look at the database afterwards says about them. */

/** Length of a row's payload, about that of one line of an event log. */
const payloadCharacters = 200;

/** Inclusive range of row numbers. */
export type RowRange = { from: number; to: number };

export type RowVerdict = {
  /** Rows whose commit the server acknowledged. */
  rowsCommitted: number;
  /** Acknowledged rows that are not there. */
  rowsLost: number;
  lost: RowRange[];
  /** Rows that are there with another payload than was sent. */
  rowsCorrupt: number;
  /** Rows sent whose acknowledgement never came, and how many of them are there all the same: both are right. */
  rowsUnanswered: number;
  rowsUnansweredPresent: number;
};

/** The payload of a row: a function of its number, so that whoever reads it back can tell a wrong one. */
export function makePayload(id: number): string {
  const word = (Math.imul(id, 0x9e3779b1) >>> 0).toString(16).padStart(8, '0');
  return `${id}:${word.repeat(Math.ceil(payloadCharacters / word.length))}`.slice(0, payloadCharacters);
}

/** Merges ascending numbers into ranges. */
export function toRanges(ids: number[]): RowRange[] {
  const ranges: RowRange[] = [];
  for (const id of ids) {
    const last = ranges.at(-1);
    if (last !== undefined && last.to + 1 === id) last.to = id;
    else ranges.push({ from: id, to: id });
  }
  return ranges;
}

/** Compares what was sent and acknowledged with what is there. `present`: payload by row number. */
export function judgeRows(
  sent: Iterable<number>,
  acknowledged: ReadonlySet<number>,
  present: ReadonlyMap<number, string>,
): RowVerdict {
  const lost: number[] = [];
  let rowsCorrupt = 0;
  let rowsUnanswered = 0;
  let rowsUnansweredPresent = 0;
  for (const id of sent) {
    const payload = present.get(id);
    if (payload !== undefined && payload !== makePayload(id)) rowsCorrupt += 1;
    if (acknowledged.has(id)) {
      if (payload === undefined) lost.push(id);
    } else {
      rowsUnanswered += 1;
      if (payload !== undefined) rowsUnansweredPresent += 1;
    }
  }
  const ranges = toRanges(lost.toSorted((a, b) => a - b));
  return {
    rowsCommitted: acknowledged.size,
    rowsLost: lost.length,
    lost: ranges,
    rowsCorrupt,
    rowsUnanswered,
    rowsUnansweredPresent,
  };
}
