/** Timeouts and caps of the machine room itself; the product's own are in base/limits.ts. */
export const labLimits = {
  /** One helper command (ip, nft, mount): milliseconds when quiet; this much on a machine that builds something beside. */
  commandMs: 20_000,
  /** From the kill of a node's group until the kernel says it is empty; measured 3 to 30 ms. */
  emptyMs: 5_000,
  /** How often an emptying group is looked at. */
  emptyPollMs: 1,
  /** How often a condition is looked at while waiting for it. */
  pollMs: 20,
  /** A controller's simulator is listening; a few milliseconds when quiet. */
  controllerReadyMs: 5_000,
  /** A watchdog process that starts must say it is ready: one Node.js start on a busy machine. */
  watchdogReadyMs: 15_000,
  /** After a node's processes are gone without an order of ours, its watchdog has this long to say that it was the one. */
  watchdogSaysMs: 1_000,
  /** Time a reset machine needs before its system runs again, unless the lab says otherwise. */
  bootDelayMs: 5_000,
  /** A service that ended is started again after this, as a supervisor on a server would. */
  serviceRestartMs: 500,
  /** SIGTERM to a service, then this, then its group is killed. */
  serviceStopMs: 5_000,
  /** How often init looks for new guests to give them their CPU priority. */
  guestNiceMs: 1_000,
  /** How often the room looks whether its owner is alive. */
  ownerPollMs: 500,
  /** One question to the room over its socket, when it has to boot or end nodes. */
  controlMs: 30_000,
  /** The room's own start. */
  roomReadyMs: 20_000,
  /** The room's own end, all nodes and namespaces gone. */
  roomDownMs: 30_000,
  /** Three stores form a cluster in 3 to 9 s; on a busy machine longer. */
  storeLeaderMs: 60_000,
  /** Every guard serves and every agent has written what its node has. */
  programsReadyMs: 90_000,
  /** Real watchdogs take whole seconds from 1; the longest we accept. */
  watchdogMinSeconds: 1,
  watchdogMaxSeconds: 600,
  /** A watchdog that is armed by a pet before it was told a timeout counts this much, as many real ones do. */
  watchdogDefaultSeconds: 60,
  /** A watchdog's own lateness above this is an event of its own: the lab was too busy to be believed. */
  watchdogLateMs: 100,
} as const;
