import type { LinkState } from '#lab/network.ts';
import type { ServiceState } from '#lab/node/init-messages.ts';
import type { PowerCut, PowerState } from '#lab/room/node-power.ts';

/** What the room does on request, over its control socket. */
export type RoomRequest =
  | { op: 'status' }
  | { op: 'plug'; node: string; to: 'off' | 'on'; keepBmc: boolean }
  | { op: 'link'; node: string; to: LinkState | { delayMs: number } }
  | { op: 'switch'; to: 'off' | 'on' }
  | { op: 'service'; node: string; service: string; to: 'start' | 'stop' }
  | { op: 'signal'; node: string; service: string; signal: NodeJS.Signals }
  | { op: 'founded' }
  | { op: 'down' };

export type NodeStatus = {
  name: string;
  address: string;
  power: PowerState;
  bootId: string | null;
  link: LinkState;
  delayMs: number;
  /** null: this lab has no management controllers. */
  controller: 'on' | 'off' | null;
  services: ServiceState[];
};

export type RoomStatus = { name: string; pid: number; switchPower: 'off' | 'on'; nodes: NodeStatus[] };

/** The answer to each request. */
export type RoomAnswer = {
  status: RoomStatus;
  plug: PowerCut | null;
  link: null;
  switch: null;
  service: ServiceState[];
  signal: { pids: number[] };
  founded: null;
  down: null;
};
