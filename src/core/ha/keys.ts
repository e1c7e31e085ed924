/**
 * Where each fact of the cluster's record lives in etcd. Every key has one owner, named at its right.
 */
export const root = '/holdfast/';

export const keys = {
  cluster: `${root}cluster`, // written once by init
  manager: `${root}manager`, // whoever leads, by compare-and-set
  nodeInfo: (node: string) => `${root}nodes/${node}/info`, // that node's agent
  nodeMachine: (node: string) => `${root}nodes/${node}/machine`, // which machine bears the name: init, or the door that let it in
  nodePermit: (node: string) => `${root}nodes/${node}/permit`, // granted by its guard, revoked by the manager
  nodeRelease: (node: string) => `${root}nodes/${node}/release`, // the manager asks; its guard deletes it as it gives the permit back
  nodeHeartbeat: (node: string) => `${root}nodes/${node}/heartbeat`, // that node's guard only
  nodeAgent: (node: string) => `${root}nodes/${node}/agent`, // that node's agent
  nodeLoad: (node: string) => `${root}nodes/${node}/load`, // that node's agent
  nodeDisarm: (node: string) => `${root}nodes/${node}/disarm`, // the manager; its guard compares it with every write
  nodePool: (node: string) => `${root}nodes/${node}/pool`, // that node's agent
  nodeBmc: (node: string) => `${root}nodes/${node}/bmc`, // the operator
  guest: (vmid: number) => `${root}guests/${vmid}`, // operator (configuration), manager (home, generation, order)
  guestTombstone: (vmid: number) => `${root}guests-deleted/${vmid}`, // the agent that deleted it; says that copies may go
  haResource: (vmid: number) => `${root}ha/resources/${vmid}`, // the operator
  haStatus: (vmid: number) => `${root}ha/status/${vmid}`, // the agent of the guest's home
  haEvent: (id: string) => `${root}ha/events/${id}`, // the manager: the story of each claim and recovery
  haMemory: `${root}ha/memory`, // the manager
  haSettings: `${root}ha/settings`, // the operator
  haRule: (id: string) => `${root}ha/rules/${id}`, // the operator
  haCommand: (id: string) => `${root}ha/commands/${id}`, // the operator (asks, withdraws), the manager (takes)
  replicationJob: (vmid: number) => `${root}replication/${vmid}`, // the operator
  joinCode: (id: string) => `${root}join-codes/${id}`, // the operator (makes), the agent of the member that made it (uses up, deletes)
  replacedNode: (node: string) => `${root}replaced/${node}`, // the operator: declared dead, its disks not accounted for
  request: (id: string) => `${root}requests/${id}`, // the operator (asks, withdraws), the agent of the node asked (does)
  backupTarget: (id: string) => `${root}backup/targets/${id}`, // the operator
  backupJob: (id: string) => `${root}backup/jobs/${id}`, // the operator
  guestBackup: (vmid: number, target: string) => `${root}backup/guests/${vmid}/${target}`, // the agent of the guest's home
  keptDisks: (vmid: number, node: string) => `${root}backup/kept/${vmid}/${node}`, // the agent of that node
  restoreTest: (vmid: number) => `${root}backup/tests/${vmid}`, // the agent that made the test
  replica: (vmid: number, node: string) => `${root}replicas/${vmid}/${node}`, // the agent that holds the copy
} as const;

export const prefixes = {
  nodes: `${root}nodes/`,
  guests: `${root}guests/`,
  haResources: `${root}ha/resources/`,
  haStatus: `${root}ha/status/`,
  haRules: `${root}ha/rules/`,
  haCommands: `${root}ha/commands/`,
  haEvents: `${root}ha/events/`,
  replication: `${root}replication/`,
  replicas: `${root}replicas/`,
  joinCodes: `${root}join-codes/`,
  replacedNodes: `${root}replaced/`,
  requests: `${root}requests/`,
  backupTargets: `${root}backup/targets/`,
  backupJobs: `${root}backup/jobs/`,
  guestBackups: `${root}backup/guests/`,
  keptDisks: `${root}backup/kept/`,
  restoreTests: `${root}backup/tests/`,
} as const;

/**
 * True when a change of the key may ask an agent's loops to act at once. Heartbeats, and what nodes say of their copies, come all the time
 * and never do: who needs them looks at its own pace.
 */
export function wakesLoops(key: string): boolean {
  return !key.endsWith('/heartbeat') && !key.startsWith(prefixes.replicas);
}
