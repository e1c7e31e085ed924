import type { Command } from 'commander';
import { keys } from '#core/ha/keys.ts';
import { withDefaults, type FullHaSettings } from '#core/ha/ha-settings.ts';
import type { RebalanceSettings } from '#core/ha/manager/facts.ts';
import type { HaSettings } from '#core/ha/records.ts';
import { formatDuration } from '#core/text/duration.ts';
import type { Cell } from '#core/text/table.ts';
import { changeRecord, readRecord } from '#cli/records.ts';
import type { Act, Session } from '#cli/session.ts';
import { parseSettings, placements, shutdownPolicies, type SettingOptions } from '#cli/setting-options.ts';

/** Adds `ha settings`. */
export function addSettingsCommand(group: Command, act: Act): void {
  group
    .command('settings')
    .description('how the manager places guests, and what it does when nodes end or flap; without options: show')
    .option('--placement <way>', `what counts as load: ${placements.join(', ')}`)
    .option('--balance-on-start <on|off>', 'a guest that is to start goes to the least loaded node first')
    .option(
      '--rebalance <off|threshold=0.3,method=bruteforce,hold=3,gain=0.1>',
      'move running guests when nodes are loaded unevenly',
    )
    .option('--shutdown-policy <policy>', `guests of a node that is ended: ${shutdownPolicies.join(', ')}`)
    .option('--quarantine-after <claims>', 'a node claimed this often receives no guests until an operator says so; 0: never')
    .option('--quarantine-window <duration>', 'within this time')
    .action(act((session, _args, options) => showOrChange(session, options as SettingOptions)));
}

async function showOrChange(session: Session, options: SettingOptions): Promise<void> {
  const changes = parseSettings(options);
  const settings =
    Object.keys(changes).length === 0
      ? await readRecord<HaSettings>(session, keys.haSettings)
      : await changeRecord<HaSettings>(session, keys.haSettings, 'the settings', (current) => ({ ...current, ...changes }));
  const full = withDefaults(settings);
  session.printer.show(full, () => formatSettings(full, settings ?? {}, session));
}

function formatSettings(full: FullHaSettings, set: HaSettings, { printer }: Session): string {
  const rows: [string, string, keyof HaSettings][] = [
    ['placement', full.placement, 'placement'],
    ['balance-on-start', full.balanceOnStart ? 'on' : 'off', 'balanceOnStart'],
    ['rebalance', formatRebalance(full.autoRebalance, full.placement), 'autoRebalance'],
    ['shutdown-policy', full.shutdownPolicy, 'shutdownPolicy'],
    ['quarantine-after', full.quarantineAfter === 0 ? '0 (never)' : String(full.quarantineAfter), 'quarantineAfter'],
    ['quarantine-window', formatDuration(full.quarantineWindowMs), 'quarantineWindowMs'],
  ];
  const cells = rows.map(([name, value, key]): Cell[] => [
    name,
    value,
    set[key] === undefined ? { text: 'default', tone: 'dim' } : '',
  ]);
  return printer.table([{ title: 'SETTING' }, { title: 'VALUE', wraps: true }, { title: '' }], cells, '');
}

function formatRebalance(rebalance: RebalanceSettings | null, placement: FullHaSettings['placement']): string {
  if (rebalance === null) return 'off';
  const { threshold, method, holdRounds, minRelativeGain } = rebalance;
  const idle = placement === 'count' ? ' (idle: needs placement by-size or by-load)' : '';
  return `threshold=${threshold},method=${method},hold=${holdRounds},gain=${minRelativeGain}${idle}`;
}
