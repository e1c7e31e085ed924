import { formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { noEvidence, type PowerEvidence } from '#core/ha/claim.ts';
import type { BmcRecord } from '#core/ha/records.ts';
import type { Bmc } from '#ports/bmc.ts';
import type { Clock } from '#ports/clock.ts';

/**
 * What this manager hears from the management controllers. Questions run beside the round, one at a time a node, each with a
 * deadline; their answers are facts of a later round.
 */
export type Controllers = {
  evidence(node: string): PowerEvidence;
  ask(node: string, record: BmcRecord, action: 'read' | 'off' | 'on'): void;
  /** A fresh heartbeat of the node arrived: whatever was heard before says nothing any more. */
  forget(node: string): void;
};

export type ControllersOptions = {
  clock: Clock;
  openBmc: (record: BmcRecord) => Bmc;
  onAnswer: (node: string, text: string) => void;
};

/** Keeps at most this many answers a node; two decide. */
const keptReads = 8;

export function createControllers(options: ControllersOptions): Controllers {
  const known = new Map<string, PowerEvidence>();
  const update = (node: string, change: Partial<PowerEvidence>) => {
    known.set(node, { ...(known.get(node) ?? noEvidence), ...change });
  };
  const perform = async (node: string, record: BmcRecord, action: 'read' | 'off' | 'on') => {
    const askedAtBootMs = options.clock.bootMs();
    const signal = AbortSignal.timeout(limits.bmcCallMs);
    try {
      const bmc = options.openBmc(record);
      if (action === 'off') {
        update(node, { offAskedAtBootMs: askedAtBootMs });
        await bmc.powerOff(signal);
      } else if (action === 'on') {
        update(node, { onAskedAtBootMs: askedAtBootMs });
        await bmc.powerOn(signal);
      } else {
        const power = await bmc.readPower(signal);
        const reads = [...(known.get(node)?.reads ?? []), { power, askedAtBootMs, answeredAtBootMs: options.clock.bootMs() }];
        update(node, { reads: reads.slice(-keptReads) });
      }
      options.onAnswer(
        node,
        `controller of ${node}: ${action} ${action === 'read' ? (known.get(node)?.reads.at(-1)?.power ?? '') : 'accepted'}`,
      );
    } catch (error) {
      options.onAnswer(node, `controller of ${node} did not ${action}: ${formatErrorChain(error)}`);
    } finally {
      update(node, { busy: false });
    }
  };
  return {
    evidence: (node) => known.get(node) ?? noEvidence,
    ask(node, record, action) {
      if (known.get(node)?.busy === true) return;
      update(node, { busy: true });
      void perform(node, record, action);
    },
    forget(node) {
      const evidence = known.get(node);
      if (evidence !== undefined && !evidence.busy) known.delete(node);
    },
  };
}
