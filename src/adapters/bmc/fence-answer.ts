import { AppError } from '#base/error.ts';

/** How a run of a fence agent ended. `code` null: it was killed at our deadline. */
export type FenceRun = { code: number | null; stdout: string; stderr: string };

/** Exit code of the action `status` when the power is off (ClusterLabs fence agent API; `on` is 0). */
const statusOffCode = 2;

/**
 * Reads the answer of `fence_ipmilan` to the action `status`. Null: it did not say. Both its words and its exit code must agree,
 * because "off" is a proof that guests may be started elsewhere.
 */
export function parsePowerStatus(run: FenceRun): 'on' | 'off' | null {
  const said = /^Status: (ON|OFF)$/m.exec(run.stdout)?.[1];
  if (said === 'ON' && run.code === 0) return 'on';
  if (said === 'OFF' && run.code === statusOffCode) return 'off';
  return null;
}

/**
 * Why a run failed, from what ipmitool wrote (fence_ipmilan itself says "unable to obtain correct plug status" to everything).
 * The texts are ipmitool 1.8.19's (src/plugins/lanplus/lanplus.c); unknown ones count as unavailable.
 */
export function sortFenceFailure(what: string, run: FenceRun): AppError {
  const words = run.stderr;
  if (run.code === null)
    return new AppError('timeout', `${what}: no answer in time; is the controller reachable from this node?`);
  if (/RAKP 2 HMAC is invalid/.test(words)) {
    return new AppError('denied', `${what}: the controller refuses the password; put the right one into the password file`);
  }
  if (/unauthorized name|insufficient (resources|privilege)|Activate Session error|privilege level/i.test(words)) {
    return new AppError('denied', `${what}: the controller refuses the user or its privilege; an administrator is needed`);
  }
  if (/Unable to read password|Unable to open password file|password file/i.test(words)) {
    return new AppError('missing', `${what}: the password file cannot be read`);
  }
  if (/Get Auth Capabilities error|No response|timeout/i.test(words)) {
    return new AppError('unavailable', `${what}: no answer; is the controller reachable from this node?`);
  }
  const last =
    words
      .trim()
      .split('\n')
      .findLast((line) => /error|fail|unable/i.test(line)) ?? `exit code ${run.code}`;
  return new AppError('unavailable', `${what}: ${last.trim().slice(0, 300)}`);
}
