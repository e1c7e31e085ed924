import type { ServiceSpec } from '#lab/lab-spec.ts';

/** What a node's init is told at boot. */
export type InitPlan = {
  /** The node's own groups: each service lives in `<sys>/<service>`, guests in `ha`. */
  sysGroup: string;
  haGroup: string;
  logDirectory: string;
  services: ServiceSpec[];
  /** Names of services that wait until they are started by request. */
  held: string[];
  guestNice: number;
};

/** A request over the init's socket; the answer is always the state of all services. */
export type InitRequest = { op: 'start' | 'stop'; services: string[] } | { op: 'list' };
export type ServiceState = { name: string; wanted: boolean; running: boolean; starts: number };
