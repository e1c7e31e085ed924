import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { keys, prefixes } from '#core/ha/keys.ts';
import { findDroppedRules, type DroppedRule } from '#core/ha/manager/rule-checks.ts';
import type { HaRule } from '#core/ha/records.ts';
import type { Cell } from '#core/text/table.ts';
import { changeRecord, listNodes, listRecords } from '#cli/records.ts';
import { formatRule, parseRule, parseRuleId, type RuleKind, type RuleOptions } from '#cli/rule-options.ts';
import type { Act, Session } from '#cli/session.ts';

type AddOptions = RuleOptions & { force?: boolean };

/** Adds `ha rules` and the group `ha rule`. */
export function addRuleCommands(group: Command, act: Act): void {
  group.command('rules').description('the placement rules, and which of them cannot hold').action(act(listRules));
  const rule = group.command('rule').description('write, switch or remove a placement rule');
  addKind(rule, act, 'prefer-nodes', 'these guests belong on these nodes')
    .requiredOption('--nodes <node:rank,node:rank>', 'the higher the rank, the better; without ranks all are equally good')
    .option('--hard', 'on no other node at all, even if they cannot run then');
  addKind(rule, act, 'keep-together', 'these guests run on one node');
  addKind(rule, act, 'keep-apart', 'no two of these guests run on one node');
  for (const [verb, enabled] of [
    ['enable', true],
    ['disable', false],
  ] as const) {
    const command = rule
      .command(`${verb} <id>`)
      .description(enabled ? 'let the rule hold again' : 'keep the rule, but let it not hold');
    if (enabled) command.option('--force', 'even if it cannot hold beside the others');
    command.action(act((session, [id], { force }) => switchRule(session, id ?? '', enabled, force === true)));
  }
  rule
    .command('remove <id>')
    .description('forget the rule')
    .action(act((session, [id]) => removeRule(session, id ?? '')));
}

function addKind(rule: Command, act: Act, kind: RuleKind, description: string): Command {
  return rule
    .command(`${kind} <id>`)
    .description(`${description}; a rule of that id is replaced`)
    .requiredOption('--guests <guest,guest>', 'their numbers or names')
    .option('--force', 'even if it cannot hold beside the others')
    .action(act((session, [id], options) => writeRule(session, kind, id ?? '', options as AddOptions)));
}

type RulesRead = { rules: HaRule[]; nodes: string[]; dropped: Map<string, DroppedRule> };

async function readRules(session: Session): Promise<RulesRead> {
  const rules = await listRecords<HaRule>(session, prefixes.haRules);
  const nodes = await listNodes(session);
  return { rules, nodes, dropped: findDropped(rules, nodes) };
}

/** Only enabled rules can contradict each other. */
function findDropped(rules: readonly HaRule[], nodes: readonly string[]): Map<string, DroppedRule> {
  const enabled = rules.filter((rule) => rule.enabled);
  return new Map(findDroppedRules(enabled, nodes).map((entry) => [entry.rule, entry]));
}

async function listRules(session: Session): Promise<void> {
  const { rules, dropped } = await readRules(session);
  const list = rules.map((rule) => ({ ...rule, dropped: dropped.get(rule.id)?.because ?? null }));
  const rows = list.map((rule): Cell[] => [
    rule.id,
    rule.kind,
    rule.guests.join(', '),
    rule.kind === 'prefer-nodes' ? rule.nodes.map(({ node, rank }) => `${node}:${rank}`).join(', ') : '',
    rule.kind === 'prefer-nodes' ? (rule.hard ? 'hard' : 'soft') : '',
    rule.dropped !== null ? { text: 'cannot', tone: 'warn' } : rule.enabled ? 'yes' : { text: 'off', tone: 'dim' },
    rule.dropped ?? '',
  ]);
  const columns = [
    { title: 'RULE' },
    { title: 'KIND' },
    { title: 'GUESTS', wraps: true },
    { title: 'NODES' },
    { title: '' },
    { title: 'HOLDS' },
    { title: 'BECAUSE', wraps: true },
  ];
  session.printer.show(list, () => session.printer.table(columns, rows, 'there is no rule'));
}

async function writeRule(session: Session, kind: RuleKind, id: string, options: AddOptions): Promise<void> {
  const guests = await listRecords<GuestRecord>(session, prefixes.guests);
  const { rules, nodes, dropped } = await readRules(session);
  const parsed = parseRule(kind, id, options, guests, nodes);
  const rule = { ...parsed, enabled: rules.find((other) => other.id === parsed.id)?.enabled ?? true };
  const others = rules.filter((other) => other.id !== rule.id);
  refuseUnlessItHolds(rule, findDropped([...others, rule], nodes), dropped, options.force === true);
  const written = await changeRecord<HaRule>(session, keys.haRule(rule.id), `rule ${rule.id}`, (current) => {
    if (current !== null && current.kind !== kind) {
      throw new AppError('conflict', `id: ${rule.id} is a rule ${current.kind} already; remove it first or take another id`);
    }
    return { ...rule, enabled: current?.enabled ?? true };
  });
  session.printer.show(written, () => `${formatRule(written ?? rule)}\n`);
}

/** Refuses a rule that would not hold, or that would keep another from holding that holds now. */
function refuseUnlessItHolds(
  rule: HaRule,
  after: ReadonlyMap<string, DroppedRule>,
  before: ReadonlyMap<string, DroppedRule>,
  force: boolean,
): void {
  if (force) return;
  const own = after.get(rule.id);
  const howToForce = 'add --force to write it all the same';
  if (own !== undefined) {
    throw new AppError('conflict', `rule ${rule.id} cannot hold: ${own.because}; nothing was changed, ${howToForce}`);
  }
  const other = [...after.values()].find((entry) => !before.has(entry.rule));
  if (other === undefined) return;
  throw new AppError(
    'conflict',
    `rule ${rule.id} would keep rule ${other.rule} from holding: ${other.because}; nothing was changed, ${howToForce}`,
  );
}

async function switchRule(session: Session, text: string, enabled: boolean, force: boolean): Promise<void> {
  const id = parseRuleId(text);
  const { rules, nodes, dropped } = await readRules(session);
  const written = await changeRecord<HaRule>(session, keys.haRule(id), `rule ${id}`, (current) => {
    if (current === null) throw missingRule(id, rules);
    const next = { ...current, enabled };
    const others = rules.filter((other) => other.id !== id);
    if (enabled) refuseUnlessItHolds(next, findDropped([...others, next], nodes), dropped, force);
    return next;
  });
  session.printer.show(written, () => `rule ${id} ${enabled ? 'holds' : 'does not hold any more'}\n`);
}

async function removeRule(session: Session, text: string): Promise<void> {
  const id = parseRuleId(text);
  const { rules } = await readRules(session);
  await changeRecord<HaRule>(session, keys.haRule(id), `rule ${id}`, () => {
    if (!rules.some((rule) => rule.id === id)) throw missingRule(id, rules);
    return null;
  });
  session.printer.show({ id }, () => `rule ${id} is removed\n`);
}

function missingRule(id: string, rules: readonly HaRule[]): AppError {
  const known = rules.map((rule) => rule.id).join(', ');
  return new AppError('missing', `id: there is no rule ${id}; known: ${known === '' ? 'none' : known}`);
}
