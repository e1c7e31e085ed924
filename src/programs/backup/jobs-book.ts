import Type from 'typebox';
import { Value } from 'typebox/value';
import { AppError } from '#base/error.ts';
import { parseFingerprint } from '#core/backup/crypt-key.ts';
import type { StateFile } from './state-file.ts';

const optionalText = Type.Union([Type.String(), Type.Null()]);
const remoteSchema = Type.Object({
  name: Type.String(),
  host: Type.String(),
  port: Type.Integer(),
  authId: Type.String(),
  secret: Type.String(),
  /** 32 colon-separated hex pairs; null: the certificate must be one this machine trusts. */
  fingerprint: optionalText,
  comment: optionalText,
});
const kinds = ['prune', 'verify', 'sync', 'gc', 'scrub'] as const;
export type JobKind = (typeof kinds)[number];
const jobSchema = Type.Object({
  kind: Type.Enum([...kinds]),
  id: Type.String(),
  store: Type.String(),
  /** null: only by hand. */
  schedule: optionalText,
  isDisabled: Type.Boolean(),
  comment: optionalText,
  createdSeconds: Type.Integer(),
  /** As they were given, to be read by the table of the job's kind. */
  options: Type.Record(Type.String(), Type.Unknown()),
});
const schema = Type.Object({ jobs: Type.Array(jobSchema), remotes: Type.Array(remoteSchema) });

export type Job = Omit<Type.Static<typeof jobSchema>, 'kind'> & { kind: JobKind };
type StoredRemote = Type.Static<typeof remoteSchema>;
/** Another backup server, and how to log in there. */
export type Remote = Omit<StoredRemote, 'fingerprint'> & { fingerprint: Uint8Array | null };
export type JobsContent = { jobs: Job[]; remotes: StoredRemote[] };
const limits = { jobs: 1_000, remotes: 200 } as const;

/** Raises what typebox raises for what is no such file. */
export function readJobsFile(value: unknown): JobsContent {
  return Value.Parse(schema, value) as JobsContent;
}

/** Jobs with their schedules, and the servers that they sync with. */
export class JobsBook {
  readonly #file: StateFile<JobsContent>;
  #content: JobsContent;

  constructor(file: StateFile<JobsContent>) {
    this.#file = file;
    this.#content = file.read();
  }

  get jobs(): readonly Job[] {
    return this.#content.jobs;
  }
  get remotes(): readonly StoredRemote[] {
    return this.#content.remotes;
  }

  /** Raises AppError missing. */
  find(kind: JobKind, id: string): Job {
    const job = this.jobs.find((candidate) => candidate.kind === kind && candidate.id === id);
    if (job === undefined) throw new AppError('missing', `${kind} job ${id} does not exist`);
    return job;
  }

  add(job: Job): void {
    if (this.jobs.some(({ kind, id }) => kind === job.kind && id === job.id))
      throw new AppError('conflict', `${job.kind} job ${job.id} exists already`);
    if (this.jobs.length >= limits.jobs) throw new AppError('conflict', `there are ${limits.jobs} jobs already`);
    this.#write({ ...this.#content, jobs: [...this.jobs, job] });
  }

  replace(job: Job): void {
    this.find(job.kind, job.id);
    this.#write({
      ...this.#content,
      jobs: this.jobs.map((other) => (other.kind === job.kind && other.id === job.id ? job : other)),
    });
  }

  remove(kind: JobKind, id: string): void {
    this.find(kind, id);
    this.#write({ ...this.#content, jobs: this.jobs.filter((job) => job.kind !== kind || job.id !== id) });
  }

  /** Raises AppError missing. */
  findRemote(name: string): Remote {
    const remote = this.remotes.find((candidate) => candidate.name === name);
    if (remote === undefined) throw new AppError('missing', `remote ${name} does not exist`);
    return { ...remote, fingerprint: remote.fingerprint === null ? null : parseFingerprint(remote.fingerprint, 'fingerprint') };
  }

  putRemote(remote: StoredRemote): void {
    const others = this.remotes.filter(({ name }) => name !== remote.name);
    if (others.length >= limits.remotes) throw new AppError('conflict', `there are ${limits.remotes} remotes already`);
    this.#write({ ...this.#content, remotes: [...others, remote] });
  }

  /** Raises AppError conflict while a job goes there. */
  removeRemote(name: string): void {
    this.findRemote(name);
    const user = this.jobs.find(({ options }) => options['remote'] === name);
    if (user !== undefined) throw new AppError('conflict', `remote ${name} is used by the ${user.kind} job ${user.id}`);
    this.#write({ ...this.#content, remotes: this.remotes.filter((remote) => remote.name !== name) });
  }

  #write(content: JobsContent): void {
    this.#file.write(content);
    this.#content = content;
  }
}
