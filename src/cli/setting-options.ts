import { AppError } from '#base/error.ts';
import type { RebalanceSettings } from '#core/ha/manager/facts.ts';
import type { HaSettings } from '#core/ha/records.ts';
import { parseDuration } from '#core/text/duration.ts';
import { parseChoice, parseFields, parseNumber, parseWholeNumber } from '#core/text/fields.ts';

/** The options of `ha settings` as they were typed. */
export type SettingOptions = {
  placement?: string;
  balanceOnStart?: string;
  rebalance?: string;
  shutdownPolicy?: string;
  quarantineAfter?: string;
  quarantineWindow?: string;
};

export const placements = ['count', 'by-size', 'by-load'] as const;
export const shutdownPolicies = ['conditional', 'freeze', 'failover', 'migrate'] as const;

const usualRebalance: RebalanceSettings = { threshold: 0.3, method: 'bruteforce', holdRounds: 3, minRelativeGain: 0.1 };
const rebalanceKeys = ['threshold', 'method', 'hold', 'gain'];

/** The settings that the options change, and only those. Raises AppError invalid, naming the option. */
export function parseSettings(options: SettingOptions): HaSettings {
  const settings: HaSettings = {};
  if (options.placement !== undefined) settings.placement = parseChoice(options.placement, 'placement', placements);
  if (options.balanceOnStart !== undefined) settings.balanceOnStart = parseSwitch(options.balanceOnStart, 'balance-on-start');
  if (options.rebalance !== undefined) settings.autoRebalance = parseRebalance(options.rebalance);
  if (options.shutdownPolicy !== undefined) {
    settings.shutdownPolicy = parseChoice(options.shutdownPolicy, 'shutdown-policy', shutdownPolicies);
  }
  if (options.quarantineAfter !== undefined) {
    settings.quarantineAfter = parseWholeNumber(options.quarantineAfter, 'quarantine-after', 0, 100);
  }
  if (options.quarantineWindow !== undefined) settings.quarantineWindowMs = parseWindow(options.quarantineWindow);
  return settings;
}

/** Reads `on` or `off`. Raises AppError invalid, naming `field`. */
export function parseSwitch(text: string, field: string): boolean {
  return parseChoice(text, field, ['on', 'off']) === 'on';
}

function parseRebalance(text: string): RebalanceSettings | null {
  if (text === 'off') return null;
  const expected = 'off, or some of threshold=0.3,method=bruteforce,hold=3,gain=0.1';
  const fields = parseFields(text, 'rebalance', (key) => rebalanceKeys.includes(key), expected);
  const given = <T>(key: string, usual: T, parse: (value: string, field: string) => T): T => {
    const value = fields.get(key);
    return value === undefined ? usual : parse(value, `rebalance ${key}`);
  };
  return {
    threshold: given('threshold', usualRebalance.threshold, (value, field) => parseNumber(value, field, 0, 10)),
    method: given('method', usualRebalance.method, (value, field) => parseChoice(value, field, ['bruteforce', 'topsis'])),
    holdRounds: given('hold', usualRebalance.holdRounds, (value, field) => parseWholeNumber(value, field, 1, 10_000)),
    minRelativeGain: given('gain', usualRebalance.minRelativeGain, (value, field) => parseNumber(value, field, 0, 1)),
  };
}

const longestWindowMs = 30 * 24 * 3_600_000;

function parseWindow(text: string): number {
  const windowMs = parseDuration(text, 'quarantine-window');
  if (windowMs >= 60_000 && windowMs <= longestWindowMs) return windowMs;
  throw new AppError('invalid', `quarantine-window: ${JSON.stringify(text)} is not from 1m to 30d`);
}
