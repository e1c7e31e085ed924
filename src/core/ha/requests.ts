import type { ErrorKind } from '#base/error.ts';
import type { GuestConfig } from '#core/guest/guest-record.ts';
import type { JobRun, RestoreProbe } from '#core/guest-backup/records.ts';
import type { ShutdownPolicy } from '#core/ha/manager/shutdown-policy.ts';
import type { WantedState } from '#core/ha/records.ts';

/**
 * `/holdfast/requests/ID`: work that only one node's agent can do, asked for by an operator through the store.
 *
 *   (cli creates) waiting ──agent takes it up──> running ──> done | failed
 *        └── cli deletes the record: withdrawn, nothing was done
 *
 * Every change is a compare-and-set on the record: a request that was withdrawn cannot be taken up any more. `waiting` is
 * changed by the agent of `node` (or deleted by whoever asked), `running` by that agent only. A running request is found again
 * by a restarted agent, so each kind must be safe to begin twice. Finished requests are removed by whoever asked, after reading them.
 */
export type RequestRecord = RequestHead & RequestOrder & RequestState;

type RequestHead = {
  /** Sorts by time: 13 digits of wall-clock milliseconds, a dash, some letters of chance. */
  id: string;
  /** Whose agent is to do it. */
  node: string;
  createdAtMs: number;
};

export type RequestOrder =
  /**
   * Makes the disks on `node`, then writes guest record (home `node`, generation 1, no order) and HA resource (`want`) in one
   * commit that demands that neither exists. Fails without leaving disks behind.
   */
  | {
      kind: 'guest-create';
      vmid: number;
      name: string;
      config: GuestConfig;
      /** Disk name -> absolute path, as `node` sees it, of a raw image whose content is copied in. */
      imports: Record<string, string>;
      want: WantedState;
    }
  /** To the home node. The guest must not run there. Removes its disks and every record of it; other nodes drop their copies when the guest's record is gone. */
  | { kind: 'guest-delete'; vmid: number }
  /** To the home node: take a point now and send it to `target` (null: to every other node). Done when it is applied there. */
  | { kind: 'replication-sync'; vmid: number; target: string | null }
  /**
   * To the node that is about to end: do with its guests as the shutdown policy says (`policy`, else the cluster's setting). Done when the
   * machine may end; `node-stay` takes it back until then, and afterwards as long as the machine is up.
   */
  | { kind: 'node-end'; request: 'power-off' | 'reboot'; policy: ShutdownPolicy | null }
  | { kind: 'node-stay' }
  /** To the home node: back the guest up now, whether it runs or not. Once begun it is ended by deleting the request. Made by a job, it bears that run. */
  | ({
      kind: 'guest-backup';
      vmid: number;
      target: string;
      freeze: boolean;
      notes: string | null;
      rateBytesPerSecond: number | null;
    } & Partial<JobRun>)
  /**
   * To the node that is to be its home: make a guest from a backup. It gets new hardware addresses unless `keepMacs`, and all its cards on
   * `bridge` when one is named. Once begun it is ended by deleting the request; nothing of it stays then. `over`: to the home of a guest that is
   * stopped, and stays so, which gets disks and configuration of the backup and keeps its addresses. `live`: it starts at once, and its disks
   * stream in while it runs; the request is done when they are complete, and to delete it before that takes the guest away again.
   */
  | {
      kind: 'guest-restore';
      vmid: number;
      target: string;
      /** `atSeconds` null: the newest. */
      from: { vmid: number; atSeconds: number | null };
      name: string | null;
      bridge: string | null;
      keepMacs: boolean;
      want: WantedState;
      over?: boolean;
      live?: boolean;
    }
  /** To a node with room for it: restore the newest backup of a guest apart from everything, look whether it lives, take it away again. */
  | { kind: 'restore-test'; vmid: number; target: string; probe: RestoreProbe }
  /** To the node that holds the tail: remove it for good. */
  | { kind: 'tail-release'; vmid: number; name: string }
  /** To the node that holds the tail: write its whole disks as raw files into `directory` (absolute, on that node). */
  | { kind: 'tail-export'; vmid: number; name: string; directory: string };

export type RestoreOrder = Extract<RequestOrder, { kind: 'guest-restore' }>;

export type RequestProgress = { text: string; doneBytes: number | null; totalBytes: number | null };

export type RequestState =
  | { state: 'waiting' }
  /** `bootId`: the boot of its node in which it was begun. */
  | { state: 'running'; progress: RequestProgress; bootId?: string }
  /** `result`: what came of it, for people, e.g. the exported files; one line each. */
  | { state: 'done'; result: string[] }
  | { state: 'failed'; error: { kind: ErrorKind; message: string } };

/** True when an earlier agent had begun it, and the machine has booted since: what it was to prepare is over. */
export function isOfEarlierBoot(request: RequestRecord, bootId: string): boolean {
  return request.state === 'running' && request.bootId !== undefined && request.bootId !== bootId;
}

/**
 * True when an agent of the node has begun to make this guest and has not told yet that it did. Whoever deletes the guest ends that as well: taken
 * up again by the next agent, it would make the guest once more. A live restore ends by itself when its guest is gone.
 */
export function hasBegunToMake(request: RequestRecord, node: string, vmid: number): boolean {
  if (request.state !== 'running' || request.node !== node) return false;
  if (request.kind === 'guest-create') return request.vmid === vmid;
  return request.kind === 'guest-restore' && request.vmid === vmid && request.over !== true && request.live !== true;
}

/** The id of a request made now. `letters`: chance, passed in, so that two requests of one millisecond differ. */
export function requestId(nowMs: number, letters: string): string {
  return `${String(nowMs).padStart(13, '0')}-${letters}`;
}

/** What a request asks for, for people. */
export function formatRequest(order: RequestOrder): string {
  switch (order.kind) {
    case 'guest-create':
      return `create guest ${order.vmid} ${order.name}`;
    case 'guest-delete':
      return `delete guest ${order.vmid}`;
    case 'replication-sync':
      return `replicate guest ${order.vmid} now${order.target === null ? '' : ` to ${order.target}`}`;
    case 'node-end':
      return `prepare for ${order.request === 'reboot' ? 'a reboot' : 'power-off'}`;
    case 'node-stay':
      return 'take guests again';
    case 'guest-backup':
      return `back up guest ${order.vmid} to ${order.target}`;
    case 'guest-restore':
      return `restore guest ${order.from.vmid} from ${order.target} ${order.over === true ? 'over' : 'as'} guest ${order.vmid}`;
    case 'restore-test':
      return `try the newest backup of guest ${order.vmid} on ${order.target} out`;
    case 'tail-release':
      return `release ${order.name} of guest ${order.vmid}`;
    case 'tail-export':
      return `export ${order.name} of guest ${order.vmid} to ${order.directory}`;
  }
}
