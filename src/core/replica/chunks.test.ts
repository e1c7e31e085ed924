import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { countDiffering, digestBytes, planChunks } from './chunks.ts';

/** A table with one byte value a chunk; 0 is a chunk of zeroes. */
function table(values: readonly number[]): Uint8Array {
  return Uint8Array.from(values.flatMap((value) => Array.from({ length: digestBytes }, () => value)));
}

const values = fc.array(fc.nat(3), { maxLength: 40 });

test('performing the runs makes the target equal to the source, and touches nothing that was equal', () => {
  fc.assert(
    fc.property(values, values, fc.integer({ min: 1, max: 8 }), (source, target, longest) => {
      const result = source.map((_, index) => target[index] ?? 0);
      let touched = 0;
      for (const run of planChunks(table(source), table(target), longest)) {
        assert.ok(run.count <= longest);
        for (let chunk = run.first; chunk < run.first + run.count; chunk += 1) {
          assert.notEqual(source[chunk], target[chunk] ?? 0);
          assert.equal(run.kind, source[chunk] === 0 ? 'zero' : 'data');
          result[chunk] = source[chunk] ?? 0;
          touched += 1;
        }
      }
      assert.deepEqual(result, source);
      if (source.length >= target.length) assert.equal(touched, countDiffering(table(source), table(target)));
    }),
  );
});
