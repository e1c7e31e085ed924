import type { DrillTools, LabTools } from '#cli/lab-tools.ts';
import type { PoolTools } from '#cli/pool-tools.ts';
import type { SetupTools } from '#cli/setup-tools.ts';
import type { Store, StoreHealth } from '#ports/store.ts';

/** Where text goes. Everything the command line prints goes through one of these, so that tests can read it. */
export type Writer = {
  write(text: string): void;
  isTerminal: boolean;
  /** Width of the terminal; 100 where there is none. */
  widthColumns: number;
};

export type ClusterStore = Store & StoreHealth & AsyncDisposable;

/** Where this process runs, seen from the cluster it talks to. */
export type Place =
  /** On a server of the cluster. */
  | { kind: 'server'; node: string; dataDirectory: string }
  /** In the client namespace of a lab on this machine; the nodes' data lies in directories of this machine. */
  | { kind: 'lab'; lab: string; dataDirectoryOf(node: string): string };

export type ReachOptions = { config?: string | undefined; lab?: string | undefined };

/** The way to a cluster. */
export type Reach =
  | { kind: 'here'; place: Place; openStore(): ClusterStore }
  /** Its network is not this process's: the whole command is run again where it is. Returns its exit code. */
  | { kind: 'elsewhere'; runAgain(): Promise<number> };

/** What the commands need of the world. */
export type CliWorld = {
  out: Writer;
  err: Writer;
  nowMs(): number;
  /** Raises the signal's reason when it aborts. */
  sleep(waitMs: number): Promise<void>;
  /** Some letters of chance, lower-case hexadecimal. */
  chance: (letters: number) => string;
  /** Aborts at Ctrl-C. */
  signal: AbortSignal;
  reach(options: ReachOptions): Promise<Reach>;
  /** Brings the machine room along; only commands that need it ask for it. */
  loadLab(): Promise<LabTools>;
  drills: DrillTools;
  /** What founds, joins and leaves; only commands that need it ask for it. */
  loadSetup(): Promise<SetupTools>;
  /** What makes and mends this machine's pools. */
  loadPools(): Promise<PoolTools>;
  /** Asks for a line that nobody is to see; from standard input where there is no terminal. */
  readSecret(question: string): Promise<string>;
  /** The arguments of this process are shown to nobody from now on. */
  hideArguments(): void;
  /** null: there is no such file. */
  readFileFrom(path: string, offsetBytes: number): Promise<{ text: string; nextBytes: number } | null>;
  fileSizeBytes(path: string): Promise<number | null>;
  /** A variable of the environment; null when it is not set or empty. */
  environment(name: string): string | null;
};
