import type { RequestOrder } from '#core/ha/requests.ts';

/**
 * A restore as a new guest. `live`: it starts at once, and its disks stream in while it runs. The request is done when they are complete; to delete it
 * before that takes the guest away again. An agent that does not know of it restores first and starts then.
 */
export type LiveRestoreOrder = Extract<RequestOrder, { kind: 'guest-restore' }> & { live?: boolean };
