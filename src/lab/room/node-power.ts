import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { formatErrorChain } from '#base/error.ts';
import { killGroup, waitUntilEmpty } from '#lab/control-group.ts';
import type { EventSink, LabEvent, PowerCause } from '#lab/lab-event.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { nodePaths } from '#lab/lab-paths.ts';
import type { LabNode, LabSpec } from '#lab/lab-spec.ts';
import { openLinkPower } from '#lab/link-power.ts';
import { plugNodeIn } from '#lab/network.ts';
import { nodeGroups, prepareBoot, spawnNode } from '#lab/room/boot.ts';
import { startWatchdog, type WatchdogEvent, type WatchdogProcess } from '#lab/room/watchdog-process.ts';

/**
 * The power of one node.
 *
 *   off --on()--> booting --(system up)--> up --(watchdog fired)--> resetting --(boot delay)--> booting
 *    ^                                     |  --(first process ended)--> halted --(watchdog fired)--> resetting
 *    '----------- cut() from anywhere -----'
 */
export type PowerState = 'off' | 'booting' | 'up' | 'halted' | 'resetting';

/** Wall clock read before the kill; how long the kill took and when the kernel said the node was empty, from the same instant. */
export type PowerCut = { atMs: number; killTookMs: number; emptyAfterMs: number };

export type NodePower = {
  state(): PowerState;
  bootId(): string | null;
  /** Boots the node unless it has power. Returns when its first process runs; `system-up` follows as an event. */
  on(by: PowerCause | 'reboot'): Promise<void>;
  /** Takes the power away at once; null when there was none. */
  cut(by: PowerCause): Promise<PowerCut | null>;
};

export type NodePowerOptions = {
  spec: LabSpec;
  node: LabNode;
  emit: EventSink;
  /** Called when the new network port exists: brings it into the state that is wanted. */
  plugged: () => Promise<void>;
  /** The main power (as the controller shows it) changed. */
  shown: (power: 'on' | 'off') => void;
};

type Boot = { id: string; child: ChildProcess; watchdog: WatchdogProcess; lostBy: PowerCause | null };

/** The node begins without power. */
export function createNodePower(options: NodePowerOptions): NodePower {
  const { spec, node, emit } = options;
  const groups = nodeGroups(spec, node.name);
  const link = openLinkPower(node.name);
  let state: PowerState = 'off';
  let boot: Boot | null = null;
  let attempt = 0;
  /** Boots of one node follow each other: one that was overtaken by a power cut still has its half-made parts in its hands. */
  let booting: Promise<void> = Promise.resolve();
  let resetTimer: NodeJS.Timeout | undefined;

  const onWatchdog = (event: WatchdogEvent) => {
    emit(event);
    if (event.event !== 'watchdog-fired' || boot === null || boot.lostBy === 'plug' || boot.lostBy === 'bmc') return;
    boot.lostBy = 'watchdog';
    void reset(event.atMs, event.killTookMs);
  };
  const reset = async (atMs: number, killTookMs: number) => {
    const wasHalted = state === 'halted';
    const mine = attempt;
    state = 'resetting';
    await waitUntilEmpty(groups.all);
    boot?.watchdog.stop();
    boot = null;
    if (!wasHalted)
      emit({ atMs, event: 'power-off', node: node.name, by: 'watchdog', killTookMs, emptyAfterMs: Date.now() - atMs });
    if (attempt !== mine) return;
    resetTimer = setTimeout(() => void on('reboot'), spec.bootDelayMs);
  };
  const onNodeExit = (mine: Boot) => {
    // Killed by the watchdog, its word may arrive a moment later than the death.
    setTimeout(() => {
      if (boot !== mine || mine.lostBy !== null) return;
      mine.lostBy = 'crash';
      link.set('down');
      const failed = state === 'booting';
      state = 'halted';
      if (failed) emit({ atMs: Date.now(), event: 'boot-failed', node: node.name, text: readConsoleEnd(spec, node) });
      emit({ atMs: Date.now(), event: 'power-off', node: node.name, by: 'crash', killTookMs: null, emptyAfterMs: null });
    }, labLimits.watchdogSaysMs);
  };
  const onNodeEvent = (event: LabEvent, id: string) => {
    if (event.event !== 'system-up') return emit(event);
    if (state === 'booting') state = 'up';
    emit({ atMs: event.atMs, event: 'system-up', node: node.name, bootId: id });
  };
  const perform = async (by: PowerCause | 'reboot', mine: number) => {
    if (attempt !== mine) return;
    const id = await prepareBoot(spec, node);
    await plugNodeIn(spec, node);
    if (attempt !== mine) return;
    const device = nodePaths(spec.name, node.name).watchdog;
    const watchdog = await startWatchdog(node.name, { device, group: groups.all }, onWatchdog);
    await options.plugged();
    if (attempt !== mine) return watchdog.stop();
    emit({ atMs: Date.now(), event: 'power-on', node: node.name, by, bootId: id });
    const child = spawnNode(spec, node, (event) => onNodeEvent(event, id));
    const current: Boot = { id, child, watchdog, lostBy: null };
    boot = current;
    child.once('exit', () => onNodeExit(current));
  };
  const on = async (by: PowerCause | 'reboot') => {
    if (state !== 'off' && state !== 'resetting') return;
    clearTimeout(resetTimer);
    attempt += 1;
    state = 'booting';
    options.shown('on');
    const mine = attempt;
    booting = booting
      .then(() => perform(by, mine))
      .catch((error: unknown) => {
        emit({ atMs: Date.now(), event: 'boot-failed', node: node.name, text: formatErrorChain(error) });
        if (attempt === mine) state = 'halted';
      });
    await booting;
  };
  return {
    state: () => state,
    bootId: () => boot?.id ?? null,
    on,
    async cut(by) {
      const atMs = Date.now();
      const startMs = performance.now();
      if (state === 'off') return null;
      attempt += 1;
      clearTimeout(resetTimer);
      if (boot !== null) boot.lostBy = by;
      link.set('down');
      killGroup(groups.all);
      const killTookMs = performance.now() - startMs;
      await waitUntilEmpty(groups.all);
      const cut = { atMs, killTookMs, emptyAfterMs: performance.now() - startMs };
      boot?.watchdog.stop();
      boot = null;
      state = 'off';
      options.shown('off');
      emit({ event: 'power-off', node: node.name, by, ...cut });
      return cut;
    },
  };
}

function readConsoleEnd(spec: LabSpec, node: LabNode): string {
  return readFileSync(nodePaths(spec.name, node.name).console, 'utf8').slice(-500).trim();
}
