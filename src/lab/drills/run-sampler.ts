import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { requireLabSpec } from '#lab/lab-spec.ts';

/**
 * The host's own eye on double runs: looks every few milliseconds into each node's guest groups and notes where a guest's QEMU
 * exists and is not frozen. It sees the kernel's truth, not anybody's view.
 */
export type RunSpan = {
  vmid: number;
  node: string;
  epoch: number;
  fromMs: number;
  /** The last look that saw it. */
  untilMs: number;
  /** The first look that did not see it any more: it ended between the two. null: it runs. */
  goneMs: number | null;
};

export type RunSampler = {
  /** Spans seen so far, oldest first; the last one of a running guest is still growing. */
  spans(): RunSpan[];
  /** Longest time between two looks, so that a busy machine cannot hide anything unsaid. */
  longestGapMs(): number;
  stop(): void;
};

export function startRunSampler(lab: string, everyMs = 20): RunSampler {
  const spec = requireLabSpec(lab);
  const spans: RunSpan[] = [];
  const open = new Map<string, RunSpan>();
  const held = new Set<string>();
  let lastLookMs = Date.now();
  let longestGapMs = 0;
  const look = () => {
    const nowMs = Date.now();
    longestGapMs = Math.max(longestGapMs, nowMs - lastLookMs);
    lastLookMs = nowMs;
    const seen = new Set<string>();
    for (const node of spec.nodes) {
      for (const { epoch, vmid, isFrozen, isToBeFrozen } of listPopulated(join(spec.cgroup, node.name, 'ha'))) {
        const key = `${node.name} ${epoch} ${vmid}`;
        if (isFrozen && isToBeFrozen) held.add(key);
        if (!isToBeFrozen) held.delete(key);
        // A frozen process that is killed leaves the freezer straight into its exit: the group says "not frozen" while it dies, but
        // without a thaw no instruction of it is executed.
        if (isFrozen || held.has(key)) continue;
        seen.add(key);
        const span = open.get(key) ?? { vmid, node: node.name, epoch, fromMs: nowMs, untilMs: nowMs, goneMs: null };
        span.untilMs = nowMs;
        if (!open.has(key)) spans.push(span);
        open.set(key, span);
      }
    }
    for (const [key, span] of open) {
      if (seen.has(key)) continue;
      span.goneMs = nowMs;
      open.delete(key);
    }
  };
  look();
  const timer = setInterval(look, everyMs);
  return {
    spans: () => spans,
    longestGapMs: () => longestGapMs,
    stop: () => clearInterval(timer),
  };
}

type GuestGroup = { epoch: number; vmid: number; isFrozen: boolean; isToBeFrozen: boolean };

/** Guests that have a process now, under one node's guests' group, and whether the kernel holds it frozen or was told to. */
function listPopulated(root: string): GuestGroup[] {
  const found: GuestGroup[] = [];
  for (const epochName of listFolders(root)) {
    const epoch = /^e(\d+)$/.exec(epochName)?.[1];
    if (epoch === undefined) continue;
    const isToBeFrozen = readText(join(root, epochName, 'cgroup.freeze')).trim() === '1';
    for (const vmid of listFolders(join(root, epochName))) {
      if (!/^\d+$/.test(vmid)) continue;
      const events = readText(join(root, epochName, vmid, 'cgroup.events'));
      if (!/^populated 1$/m.test(events)) continue;
      found.push({ epoch: Number(epoch), vmid: Number(vmid), isFrozen: /^frozen 1$/m.test(events), isToBeFrozen });
    }
  }
  return found;
}

function listFolders(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return []; // gone between two looks: nothing runs in it
  }
}

/** Empty when the group has gone between two looks: nothing runs in it. */
function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Pairs of spans of one guest on two nodes that overlap in time: each is a double run. */
export function findDoubleRuns(spans: RunSpan[]): [RunSpan, RunSpan][] {
  const pairs: [RunSpan, RunSpan][] = [];
  spans.forEach((first, index) => {
    for (const second of spans.slice(index + 1)) {
      if (first.vmid !== second.vmid || first.node === second.node) continue;
      if (first.fromMs <= second.untilMs && second.fromMs <= first.untilMs) pairs.push([first, second]);
    }
  });
  return pairs;
}
