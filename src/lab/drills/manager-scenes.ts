import type { ManagerScene } from '#lab/drills/drill-names.ts';
import { refuseTheOneTooMany } from '#lab/drills/manager/admission.ts';
import { disarmForWork } from '#lab/drills/manager/disarm.ts';
import { drainAndReturn } from '#lab/drills/manager/drain.ts';
import { recoverApart } from '#lab/drills/manager/keep-apart.ts';
import { loseMoveTarget } from '#lab/drills/manager/lost-target.ts';
import { failOverAtPowerOff, freezeAtReboot, migrateAtReboot } from '#lab/drills/manager/node-end.ts';
import { failToStart } from '#lab/drills/manager/restart-policy.ts';
import type { SceneResult, Stage } from '#lab/drills/manager/stage.ts';
import { stopTheDeaf } from '#lab/drills/manager/stop-timeout.ts';

/** In this order: first those that need the database, which costs the most to have around; the last ones leave guests behind. */
export const scenes: { name: ManagerScene; needsDatabase: boolean; play: (stage: Stage) => Promise<SceneResult> }[] = [
  { name: 'drain', needsDatabase: true, play: drainAndReturn },
  { name: 'freeze', needsDatabase: true, play: freezeAtReboot },
  { name: 'failover', needsDatabase: true, play: failOverAtPowerOff },
  { name: 'migrate', needsDatabase: false, play: migrateAtReboot },
  { name: 'lost-target', needsDatabase: false, play: loseMoveTarget },
  { name: 'admission', needsDatabase: false, play: refuseTheOneTooMany },
  { name: 'stop', needsDatabase: false, play: stopTheDeaf },
  { name: 'restart', needsDatabase: false, play: failToStart },
  { name: 'keep-apart', needsDatabase: false, play: recoverApart },
  { name: 'disarm', needsDatabase: false, play: disarmForWork },
];

export function needDatabase(chosen: readonly string[]): boolean {
  return scenes.some(({ name, needsDatabase }) => needsDatabase && chosen.includes(name));
}
