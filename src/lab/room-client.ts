import { askJson } from '#lab/json-socket.ts';
import { labLimits } from '#lab/lab-limits.ts';
import { labPaths } from '#lab/lab-paths.ts';
import { requireLabSpec } from '#lab/lab-spec.ts';
import type { RoomAnswer, RoomRequest } from '#lab/room/room-requests.ts';

/**
 * Asks the room of a lab. Raises AppError missing when there is no such lab, unavailable when its room has died (then `lab down`
 * cleans up), and whatever the room answers.
 */
export async function askRoom<R extends RoomRequest>(name: string, request: R): Promise<RoomAnswer[R['op']]> {
  requireLabSpec(name);
  return askJson(`lab ${name}: ${request.op}`, labPaths(name).controlSocket, request, labLimits.controlMs);
}
