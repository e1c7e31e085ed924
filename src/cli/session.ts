import type { Command } from 'commander';
import { formatTable, paint, type Cell, type Column, type Tone } from '#core/text/table.ts';
import type { CliWorld, ClusterStore, Place, Writer } from '#cli/world.ts';

export type CommonOptions = { json?: boolean; config?: string; lab?: string };

/** One command at work on a cluster. */
export type Session = {
  world: CliWorld;
  store: ClusterStore;
  place: Place;
  printer: Printer;
};

/** Prints one result: JSON for programs or text for people, never both. */
export type Printer = {
  json: boolean;
  show(value: unknown, text: () => string): void;
  table(columns: Column[], rows: Cell[][], ifEmpty: string): string;
  paint(text: string, tone: Tone): string;
};

/** Exit codes that no error stands for; `base/error.ts` has the others. */
export const exitCodes = { ok: 0, degraded: 20, down: 21, interrupted: 130 } as const;

/**
 * Runs `work` with an open store and returns the command's exit code; runs the whole command again inside the lab's network
 * where that is needed.
 */
async function withCluster(
  world: CliWorld,
  command: Command,
  work: (session: Session) => Promise<number | void>,
): Promise<number> {
  // What stands nearer to the command wins.
  const options = { ...command.optsWithGlobals<CommonOptions>(), ...command.opts<CommonOptions>() };
  const reach = await world.reach({ config: options.config, lab: options.lab });
  if (reach.kind === 'elsewhere') return reach.runAgain();
  await using store = reach.openStore();
  const printer = createPrinter(world.out, options.json === true);
  return (await work({ world, store, place: reach.place, printer })) ?? exitCodes.ok;
}

/** Makes an action for commander from work on a cluster. */
export type Act = ReturnType<typeof clusterActions>;
type ClusterWork = (session: Session, args: string[], options: Record<string, unknown>) => Promise<number | void>;

/** Makes actions for commander from work on a cluster; `run` receives each command's exit code. */
export function clusterActions(world: CliWorld, run: (code: number) => void) {
  return (work: ClusterWork) =>
    async (...parts: unknown[]): Promise<void> => {
      const command = parts.at(-1) as Command;
      run(await withCluster(world, command, (session) => work(session, command.args, command.opts())));
    };
}

/** A printer that writes to `out`. */
export function createPrinter(out: Writer, json: boolean): Printer {
  const look = { widthColumns: out.widthColumns, color: out.isTerminal };
  return {
    json,
    show: (value, text) => out.write(json ? `${JSON.stringify(value, null, 2)}\n` : text()),
    table: (columns, rows, ifEmpty) => (rows.length === 0 ? `${ifEmpty}\n` : formatTable(columns, rows, look)),
    paint: (text, tone) => paint(text, tone, look.color),
  };
}

/** The lines that follow a table already begun carry no titles again. */
export function tableWithoutHead(table: string): string {
  return table.slice(table.indexOf('\n') + 1);
}
