import type { Command } from 'commander';
import { AppError } from '#base/error.ts';
import { describeRest } from '#programs/backup/rest.ts';
import { parseSnapshotText } from '#core/backup/archive-spec.ts';
import { readSecret } from '#cli/backup-access.ts';
import { addBackupServerGroup } from '#cli/backup-server/group.ts';
import { addInit } from '#cli/backup-server/init.ts';
import { followTask } from '#cli/backup-server/follow-task.ts';
import { reachOwnServer, type Method, type ServerOptions } from '#cli/backup-server/reach-server.ts';
import { showAnswer } from '#cli/backup-server/show.ts';
import { groupTexts, verbs, type Verb } from '#cli/backup-server/verbs.ts';
import { createPrinter, type CommonOptions } from '#cli/session.ts';
import type { CliWorld } from '#cli/world.ts';

type Description = ReturnType<typeof describeRest>[number];
type Values = Record<string, string | number | boolean | string[]>;
type VerbOptions = CommonOptions &
  ServerOptions & { detach?: boolean; passwordFile?: string; password?: boolean } & Record<string, unknown>;

const namesOfPlace: Readonly<Record<string, readonly string[]>> = {
  group: ['backup-type', 'backup-id'],
  snapshot: ['backup-type', 'backup-id', 'backup-time'],
};

/** Adds the group `backup-server`: setting one up, and all that is done to it on its own machine. */
export function addBackupServerCommands(program: Command, world: CliWorld): void {
  const group = addBackupServerGroup(program);
  addInit(group, world);
  const calls = new Map(describeRest().map((call) => [`${call.method} ${call.path}`, call]));
  for (const verb of verbs) {
    const call = calls.get(verb.call);
    if (call === undefined) throw new Error(`backup-server ${verb.words}: the API has no call ${verb.call}`);
    addVerb(group, world, verb, call);
  }
}

function addVerb(group: Command, world: CliWorld, verb: Verb, call: Description): void {
  const words = verb.words.split(' ');
  const last = words.pop() ?? '';
  const parent = words.reduce(
    (above, word) => above.commands.find((child) => child.name() === word) ?? addGroup(above, word),
    group,
  );
  const command = parent.command(last).description(verb.what ?? call.description);
  const places = verb.places ?? [];
  for (const place of places) command.argument(place.startsWith('[') ? place : `<${place}>`, describePlace(place, call));
  const taken = new Set([
    ...places.flatMap((place) => namesOfPlace[bare(place)] ?? [bare(place)]),
    ...Object.keys(verb.fixed ?? {}),
    ...(verb.secret === undefined ? [] : [verb.secret.name]),
  ]);
  for (const [name, { type, description, optional, ...limits }] of Object.entries(call.parameters)) {
    if (taken.has(name)) continue;
    const range = limits.enum === undefined ? '' : ` (${limits.enum.join(', ')})`;
    const flags = type === 'boolean' ? `--${name} [yes|no]` : type === 'array' ? `--${name} <value...>` : `--${name} <value>`;
    const option = command.createOption(flags, `${description}${range}`);
    command.addOption(optional ? option : option.makeOptionMandatory());
  }
  if (verb.secret !== undefined) {
    command.option('--password-file <file>', 'the password or secret (default: asked for)');
    if (verb.secret.canLack) command.option('--no-password', 'without one: nobody logs in as this one, only its tokens');
  }
  addServerOptions(command).option('--detach', 'where it is a task: tell its name and do not wait for it');
  command.action(async () => {
    await runVerb(world, verb, call, command.args, command.optsWithGlobals<VerbOptions>());
  });
}

function addGroup(above: Command, word: string): Command {
  return above.command(word).description(groupTexts[word] ?? `jobs of the kind ${word}`);
}

function addServerOptions(command: Command): Command {
  return command
    .option('--server-config <file>', "the server's configuration", '/etc/holdfast/backup.toml')
    .option('--as <user>', 'as this user or token instead of the one that init made')
    .option('--secret-file <file>', 'its password or secret (default: asked for)');
}

async function runVerb(
  world: CliWorld,
  verb: Verb,
  call: Description,
  args: readonly string[],
  options: VerbOptions,
): Promise<void> {
  const params: Values = { ...verb.fixed };
  for (const [at, place] of (verb.places ?? []).entries()) {
    const text = args[at];
    if (text !== undefined) Object.assign(params, readPlace(bare(place), text, call));
  }
  for (const [name, { type }] of Object.entries(call.parameters)) {
    const value = options[camel(name)];
    if (name in params || value === undefined || name === verb.secret?.name) continue;
    if (type === 'array') params[name] = value as string[];
    else params[name] = value === true ? true : readValue(name, value as string, call);
  }
  if (verb.secret !== undefined && options.password !== false) {
    const { name } = verb.secret;
    const question = `${name[0]?.toUpperCase()}${name.slice(1)}: `;
    params[name] = await readSecret(world, {
      file: options.passwordFile ?? null,
      variable: null,
      question,
      option: '--password-file',
    });
  }
  const ask = await reachOwnServer(world, options);
  const path = call.path.replaceAll(/\{([a-z-]+)\}/g, (_, name: string) => {
    const value = encodeURIComponent(formatPart(params[name]));
    delete params[name];
    return value;
  });
  const data = await ask(call.method as Method, path, params);
  const printer = createPrinter(world.out, options.json === true);
  if (typeof data === 'string' && data.startsWith('UPID:') && options.detach !== true) {
    const status = await followTask(world, ask, data);
    printer.show({ upid: data, status }, () => `${status}\n`);
  } else showAnswer(printer, data, verb.columns ?? null);
}

function readPlace(place: string, text: string, call: Description): Values {
  if (namesOfPlace[place] === undefined) return { [place]: readValue(place, text, call) };
  const { type, id, atSeconds } = parseSnapshotText(text);
  if (place === 'snapshot' && atSeconds === null) throw new AppError('invalid', `snapshot: ${text} lacks its time`);
  if (place === 'group' && atSeconds !== null && call.parameters['backup-time'] === undefined)
    throw new AppError('invalid', `group: ${text} is a snapshot; give TYPE/ID`);
  return { 'backup-type': type, 'backup-id': id, ...(atSeconds === null ? {} : { 'backup-time': atSeconds }) };
}

/** Times may be given as dates; everything else is the server's to read. */
function readValue(name: string, text: string, call: Description): string | number {
  const isTime = call.parameters[name]?.description.startsWith('seconds since 1970') === true;
  if (!isTime || /^\d+$/.test(text)) return text;
  const atMs = Date.parse(text);
  if (Number.isNaN(atMs)) throw new AppError('invalid', `${name}: ${text} is neither a date nor seconds since 1970`);
  return Math.floor(atMs / 1_000);
}

function formatPart(value: Values[string] | undefined): string {
  return typeof value === 'object' ? value.join(',') : String(value ?? '');
}

function describePlace(place: string, call: Description): string {
  if (bare(place) === 'group') return 'TYPE/ID';
  if (bare(place) === 'snapshot') return 'TYPE/ID/YYYY-MM-DDTHH:MM:SSZ';
  return call.parameters[place]?.description ?? '';
}

function bare(place: string): string {
  return place.replace(/^\[(.*)\]$/, '$1');
}

/** As commander names the value of an option. */
function camel(name: string): string {
  return name.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase());
}
