import type { ChunkCatalogue } from './chunk-catalogue.ts';

/** What one run of the rolling verification may cost. `olderThan`: seconds since 1970; chunks verified after it are left. */
export type VerifyBudget = { bytes: number; olderThan: number };

/** Picks chunks for the rolling verification: those longest not looked at first, as many as the budget allows; at least one. */
export function planVerify(catalogue: ChunkCatalogue, budget: VerifyBudget): Uint8Array[] {
  const due: { number: number; verifiedAt: number }[] = [];
  for (let number = 0; number < catalogue.top; number += 1) {
    if (catalogue.digestOf(number) === null) continue;
    const { verifiedAt } = catalogue.factsOf(number);
    if (verifiedAt < budget.olderThan) due.push({ number, verifiedAt });
  }
  due.sort((a, b) => a.verifiedAt - b.verifiedAt);
  const picked: Uint8Array[] = [];
  let left = budget.bytes;
  for (const { number } of due) {
    const { sizeBytes } = catalogue.factsOf(number);
    if (picked.length > 0 && sizeBytes > left) break;
    picked.push(Uint8Array.from(catalogue.digestOf(number)!));
    left -= sizeBytes;
  }
  return picked;
}
