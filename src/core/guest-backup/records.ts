import type { KeepRules } from '#core/backup/prune.ts';
import type { LeftBehind } from '#core/replica/records.ts';

/**
 * `/holdfast/backup/targets/ID`: a place that guests are backed up to. Secrets lie in files on each node, never in the store.
 */
export type BackupTarget = {
  id: string;
  /** USER@REALM!TOKEN@HOST:PORT:STORE */
  repository: string;
  /** SHA-256 of the server's certificate; null: it must be signed by an authority that the nodes trust. */
  fingerprint: string | null;
  /** Levels with slashes between; empty: the root. */
  namespace: string;
  passwordFile: string;
  /** With it everything is encrypted before it leaves the node; null: nothing is. */
  keyFile: string | null;
};

/** `/holdfast/backup/jobs/ID`: which guests are backed up when. Each guest is its home's to back up. */
export type BackupJob = {
  id: string;
  target: string;
  /** null: every guest. */
  guests: number[] | null;
  except: number[];
  /** A calendar event in the node's own time, see core/text/calendar-event; null: only when somebody asks. */
  schedule: string | null;
  /** What stays on the target afterwards; null: nothing is removed. */
  keep: KeepRules | null;
  notes: string | null;
  rateBytesPerSecond: number | null;
  /** Ask the agent in the guest to bring its file systems to rest for the instant of the point. */
  freeze: boolean;
  enabled: boolean;
  /** A restore test follows each backup; null: none. */
  test: RestoreProbe | null;
  createdAtMs: number;
};

/** What a restored guest must do to count as restored. */
export type RestoreProbe = {
  /** `boot`: it runs on for a while; `agent`: the agent in it answers; `port`, `sql`: from a network of its own. */
  kind: 'boot' | 'agent' | 'port' | 'sql';
  /** `port`, `sql`: its own address with prefix length. */
  address: string | null;
  /** `port`, `sql`: where it listens. */
  port: number | null;
  /** `sql`: user, database and a query that must give a row. */
  user: string | null;
  database: string | null;
  query: string | null;
  /** How long it may take from its start. */
  timeoutMs: number;
};

/** What a request bears beside its order when a job made it: whose run it is, how often that has failed, and what stays on the target afterwards. */
export type JobRun = { job: string; tries: number; keep: KeepRules | null };

/** Null: an operator made the request, or it is no backup. */
export function jobRunOf(request: { kind: string } & Partial<JobRun>): JobRun | null {
  const { job, tries = 0, keep = null } = request;
  return job === undefined ? null : { job, tries, keep };
}

/** How a backup was made: all of a disk was read and sent, read and compared, or only what the bitmap marked was read. */
export type BackupKind = 'whole' | 'compare' | 'delta';

/** How a guest's file systems were at the point: at rest, as a power cut leaves them, or as it had left them when it was stopped. */
export type BackupConsistency = 'frozen' | 'crash' | 'stopped';

/** What one backup did. Bytes: of the guest's disks, of the chunks that the target lacked, and of those on the wire. */
export type BackupFigures = {
  kind: BackupKind;
  because: string;
  /** The disks' size. */
  totalBytes: number;
  readBytes: number;
  chunks: number;
  sentChunks: number;
  sentDataBytes: number;
  sentWireBytes: number;
  pausedMs: number;
  consistency: BackupConsistency;
  tookMs: number;
};

/** `/holdfast/backup/guests/VMID/TARGET`: how the guest's backups to that target went, written by the agent of its home. */
export type GuestBackupRecord = {
  vmid: number;
  target: string;
  node: string;
  generation: number;
  /** The newest one; `pointAtMs`: wall clock of the guest at its point. `notThinned`: why the target kept older ones that were to go after it. */
  last: { snapshot: string; atSeconds: number; pointAtMs: number; figures: BackupFigures; notThinned?: string } | null;
  /** The last try, when it failed. `job`, `tries`: whose run it was, and how often that has failed; left out: nobody wants it tried again. */
  failed: { atMs: number; because: string; job?: string; tries?: number } | null;
  /** When a job last began with it; in that order: job id, wall clock. */
  jobs: Record<string, number>;
};

/** `/holdfast/backup/tests/VMID`: what the last restore test of a guest found, written by the agent that made it. */
export type RestoreTestRecord = {
  vmid: number;
  target: string;
  node: string;
  snapshot: string;
  /** Of the backup; its age is told from it. */
  snapshotAtMs: number;
  probe: RestoreProbe['kind'];
  passed: boolean;
  because: string;
  startedAtMs: number;
  endedAtMs: number;
  /** What each step took; left out: it was not reached. */
  restoreMs?: number;
  bootMs?: number;
};

/** `/holdfast/backup/kept/VMID/NODE`: tails that a primary copy keeps, such as disks that a restore replaced; written by the agent of NODE. */
export type KeptDisksRecord = { vmid: number; node: string; tails: LeftBehind[] };
