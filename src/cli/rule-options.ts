import { AppError } from '#base/error.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import type { HaRule } from '#core/ha/records.ts';
import { parseWholeNumber } from '#core/text/fields.ts';
import { chooseGuest } from '#cli/records.ts';

export type RuleKind = HaRule['kind'];
/** The options of `ha rule KIND` as they were typed. */
export type RuleOptions = { guests: string; nodes?: string; hard?: boolean };

const idPattern = /^[a-z][a-z0-9-]{0,62}$/;

/** Reads a rule's id. Raises AppError invalid. */
export function parseRuleId(text: string): string {
  if (idPattern.test(text)) return text;
  throw new AppError('invalid', `id: ${JSON.stringify(text)} is not a rule's id (small letters, digits, dashes; a letter first)`);
}

/** Reads the options into an enabled rule. Raises AppError invalid, missing (with the known ones) or conflict, naming the option. */
export function parseRule(kind: RuleKind, id: string, options: RuleOptions, guests: GuestRecord[], nodes: string[]): HaRule {
  const base = { id: parseRuleId(id), enabled: true, guests: parseGuests(options.guests, guests) };
  if (kind !== 'prefer-nodes') return { ...base, kind };
  return { ...base, kind, hard: options.hard === true, nodes: parseRankedNodes(options.nodes ?? '', nodes) };
}

/** Reads `100,web` into the guests' numbers, as rules and dependencies name them. Raises as parseRule. */
export function parseGuests(text: string, guests: GuestRecord[], field = 'guests'): string[] {
  const found = text.split(',').map((part) => String(chooseGuest(guests, part.trim(), field).vmid));
  const repeated = found.find((guest, index) => found.indexOf(guest) !== index);
  if (repeated !== undefined) throw new AppError('invalid', `${field}: guest ${repeated} is given twice`);
  return found;
}

function parseRankedNodes(text: string, nodes: string[]): { node: string; rank: number }[] {
  const found = text.split(',').map((part) => {
    const [node = '', rank] = part.trim().split(/:(.*)/s);
    if (!nodes.includes(node)) {
      throw new AppError('missing', `nodes: there is no node ${node}; known: ${nodes.length === 0 ? 'none' : nodes.join(', ')}`);
    }
    return { node, rank: rank === undefined ? 0 : parseWholeNumber(rank, `nodes: rank of ${node}`, 0, 1_000) };
  });
  const repeated = found.find(({ node }, index) => found.findIndex((other) => other.node === node) !== index);
  if (repeated !== undefined) throw new AppError('invalid', `nodes: ${repeated.node} is given twice`);
  return found;
}

/** A rule in one sentence. */
export function formatRule(rule: HaRule): string {
  const guests = `guests ${rule.guests.join(', ')}`;
  const off = rule.enabled ? '' : ' (switched off)';
  switch (rule.kind) {
    case 'prefer-nodes': {
      const nodes = rule.nodes.map(({ node, rank }) => `${node} (rank ${rank})`).join(', ');
      return `rule ${rule.id}: ${guests} belong on ${nodes}${rule.hard ? ' and run nowhere else' : ''}${off}`;
    }
    case 'keep-together':
      return `rule ${rule.id}: ${guests} run on one node${off}`;
    case 'keep-apart':
      return `rule ${rule.id}: no two of ${guests} run on one node${off}`;
  }
}
