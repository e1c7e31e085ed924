/**
 * Every timeout and cap, with its unit in its name and one reason. Timing that the safety argument depends on (renew, soft,
 * watchdog, claim) is not here but in core/ha/timing.ts, where it is checked against the inequality.
 */
export const limits = {
  /** One etcd call; a call in flight when the etcd leader dies waits longer than this inside the follower, so we give up and read again. */
  etcdCallMs: 900,
  /** A caller's patience with one etcd member's connection: a frozen one accepts and then says nothing, so two attempts must fit in a call. */
  etcdConnectMs: 400,
  /** A TLS handshake that goes on without its caller, for the next one: on a starved machine it takes a second or two. */
  etcdHandshakeMs: 3_000,
  /** A read that has no answer yet is asked of the next member as well, so that one frozen member does not eat the deadline. */
  etcdHedgeMs: 300,
  /** Pause when every etcd member refused in turn (an election is under way). */
  etcdRetryMs: 50,
  /** Pause of a watch after every member refused it in turn. */
  watchRetryMs: 200,
  /** Changes a watch holds for a slow reader; past that it gets a fresh snapshot instead. */
  watchQueueChanges: 10_000,
  /** A program that starts waits this long for the store before it says so (it goes on trying). */
  storeStartMs: 10_000,
  /** Watch liveness: a progress request this often … */
  watchProgressMs: 500,
  /** … and a reconnect to the next member after this much silence. */
  watchSilenceMs: 1_500,
  /** A QMP command; QEMU answers in milliseconds, but blockdev-add may flush. */
  qmpCallMs: 10_000,
  /** QEMU process start until its QMP socket answers, on a busy machine. */
  qemuStartMs: 15_000,
  /** One `ip` command; the kernel answers in milliseconds, but holds a lock while other links are removed. */
  ipCommandMs: 5_000,
  /** A look for QEMU's sockets while it starts, and at an adopted QEMU's process while it runs. */
  qemuPollMs: 50,
  guestExitPollMs: 200,
  /** QEMU closing its disks in order: it flushes them. After that it is killed. */
  qemuQuitMs: 10_000,
  /** SIGKILL until the process is gone; longer only when it hangs in the kernel on its disks. */
  guestKillMs: 10_000,
  /** Booting the probe guest once per boot of the node; an emulated CPU needs a fifth of a second, one that is emulated twice and starved many. */
  acceleratorProbeMs: 30_000,
  /** An agent inside a guest answers at once or is not there. */
  guestAgentMs: 2_000,
  /** A guest stands still for its own agent at most this long. */
  guestRestMs: 5_000,
  /** A guest that was told to go on and did not answer is told again after this, doubling up to the next value. */
  guestThawRetryMs: 1_000,
  guestThawRetryMaxMs: 30_000,
  /** How much of QEMU's own log goes into an error message. */
  qemuWordsChars: 600,
  /** Guest shutdown by ACPI before it is killed. */
  guestShutdownMs: 60_000,
  /** The agent's loop runs at least this often, whatever rings. */
  agentRoundMs: 2_000,
  /** The manager's loop: silence is counted in seconds, so look twice a second. */
  managerRoundMs: 500,
  /** Guests' commits that the manager has under way at once after the loss of a node; the store batches them. */
  commitsAtOnce: 16,
  /** A round of the manager that counts for the balance of loads; a move between two of them must show. */
  rebalanceRoundMs: 20_000,
  /** A lost guest waits this long for its own home, when that has booted and its agent has not spoken yet. */
  homeReturnWaitMs: 30_000,
  /** A guest whose move failed is left alone for this long: what was in the way is seldom gone sooner, and each try costs a copy. */
  moveRetryMs: 60_000,
  /** A guest whose start failed on a node and went well on another does not go back by itself for this long: each try is an outage. */
  avoidFailedMs: 3_600_000,
  /** A guest waits this long for those that it starts after. */
  startsAfterWaitMs: 120_000,
  /** The agent says it is alive this often; the guard publishes it. */
  agentAliveMs: 1_000,
  /** The agent tells what its guests use this often; shorter than a round that counts for the balance of loads. */
  guestLoadMs: 15_000,
  /** An agent silent this long is given up: its node's guests are moved by asking its guard to release them. */
  agentSilentMs: 60_000,
  /** Claims that a node's permit still tells of. */
  pastClaimsKept: 10,
  /** The manager keeps this many events in the store; older ones are deleted. */
  haEventsKept: 400,
  /** Answers to commands that nobody came back for; past that the oldest are removed. */
  commandAnswersKept: 50,
  /** A guest that failed to start is tried again after this, doubling up to the next value. */
  guestRetryMs: 2_000,
  guestRetryMaxMs: 60_000,
  /** A guest whose QEMU ends by itself sooner than this after its start has failed to start: kernel and init are up by then. */
  guestSteadyMs: 10_000,
  /** Handing a guest over is tried again this often before the order to move it has failed; the guest stands still meanwhile. */
  handOverRetries: 2,
  /** A guest that is given up to several nodes waits this long for each copy after the first. */
  furtherCopyMs: 60_000,
  /** The agent looks at what the guard says this often; it delays starts by at most this. */
  guardLookMs: 100,
  /** Declined copies remembered in a guest's record. */
  declinedKept: 8,
  /** A node that is to end has stopped its guests, and sent their last state on, within this; a copy made anew takes minutes. */
  nodeEndMs: 20 * 60_000,
  /** Moving every guest away, one after the other, whole disks among them. */
  nodeDrainMs: 60 * 60_000,
  /** A node that is to reboot waits this long for the manager to take note of it: a lead changes hands within this. */
  managerAnswerMs: 30_000,
  /** How often the end of a node is looked at while it is prepared. */
  nodeEndLookMs: 250,
  /** A request that needs a guest to itself waits this long for the action under way. */
  guestBusyMs: 20_000,
  /** A guest must not be stopped longer than this for a replication point; then `cont` is sent again. */
  replicationPauseMs: 2_000,
  /** Relay link heartbeat and the silence after which it is cut: the longest stall a hung peer can cause. */
  relayHeartbeatMs: 500,
  relaySilenceMs: 1_500,
  /** A relay's connection to another relay, or its local client's arrival on the path it was given. */
  relayConnectMs: 2_000,
  /** Guests that send to one node at a time: more of them only make each point older. */
  cyclesAtOnce: 4,
  /** The same where copies travel as streams of ZFS: no guest ever waits for such a link, so a busy machine may be late. */
  streamSilenceMs: 10_000,
  streamConnectMs: 10_000,
  streamCutMs: 10_000,
  /** QEMU must answer a plain question within this while it writes to another node, or the way there is cut. */
  qemuPulseMs: 750,
  /** How long the agent waits for the relay's word that a tunnel is cut. */
  tunnelCutMs: 500,
  /** A storage daemon's start until it answers, on a busy machine; and its orderly end before it is killed. */
  storageDaemonStartMs: 5_000,
  storageDaemonQuitMs: 3_000,
  /** qemu-img on one layer: create, check, or look at it. */
  imageCommandMs: 30_000,
  /** qemu-img over a whole disk: import, merge, export. */
  imageCopyMs: 6 * 60 * 60_000,
  /** What a node holds is compared with what it told the cluster this often, for announcements that were lost. */
  replicaAnnounceMs: 5_000,
  /** A push that moved no byte for this long is given up: the far disk or daemon hangs. */
  replicaStallMs: 5_000,
  /** The NBD server's first words, and QEMU's own wait for them; QEMU's main loop stands still meanwhile. */
  nbdOpenMs: 1_000,
  /** One NBD request of ours; a far disk may be slow. */
  nbdRequestMs: 10_000,
  /** Room for old data while a point is copied: past this the cycle is given up, so that it never fills the guests' disk. */
  scratchBytes: 4 * 2 ** 30,
  /** The scratch files' real size is looked at this often. */
  scratchLookMs: 200,
  /** Sequence numbers of points taken from the manifest at a time: one durable write for so many cycles. */
  reservedSeqs: 1_000,
  /** An agent at a long request looks this often whether it is still wanted. */
  withdrawalLookMs: 500,
  /** Progress of a request goes to the store this often at most. */
  progressTellMs: 2_000,
  /** Whoever looks at a restored guest begins and ends within this. */
  probeEndMs: 30_000,
  /** A restored guest is started, and later gone, within this. */
  restoreTestStepMs: 120_000,
  /** Jobs are looked at this often; they are due to the minute. */
  backupJobsLookMs: 5_000,
  /** Backups that one node makes at a time: each reads a disk and compresses it. */
  backupsAtOnce: 2,
  /** A job's backup that failed is tried again after this, twice as late each time, so often: a server that was restarted is there again. */
  backupRetryMs: 10 * 60_000,
  backupRetries: 3,
  /** Threads that hash and compress for backups and restores, as nice(2) counts: guests go first, but a backup ends on a busy node as well (decision 15). */
  backupNice: 10,
  /** A thread that is to end may still load its code until then; on a busy node that takes long at its priority. */
  threadEndMs: 60_000,
  /** A backup says how far it is this often. */
  backupProgressMs: 500,
  /** A backup whose target takes nothing for this long is given up; until then old data is kept for it on the guests' disk. */
  backupStallMs: 30_000,
  /** Reaching a backup server, logging in and opening a session, with a server that takes its time to refuse. */
  backupOpenMs: 60_000,
  /** A restore that gets nothing for this long is given up. */
  restoreStallMs: 120_000,
  /** A backup server makes everything durable before it answers; a slow disk with much in flight takes minutes. */
  backupFinishMs: 600_000,
  /** A write of a guest waits at most this long for old data to be kept for a backup; then the backup is given up. */
  backupPatienceMs: 2_000,
  /** Room for old data while a backup is read: past this the backup is given up, so that it never fills the guests' disk. */
  backupScratchBytes: 16 * 2 ** 30,
  /** The agent in a guest brings its file systems to rest within this, or the point is taken without. */
  guestFreezeMs: 10_000,
  /** One replication step (begin, seal, hash request) on the control stream. */
  replicaCallMs: 15_000,
  /** One command to ZFS: it waits for transaction groups, which take seconds on slow disks under load. */
  zfsCommandMs: 60_000,
  /** A dataset that is still open somewhere (udev looks at new devices) is free again within this. */
  zfsBusyMs: 15_000,
  /** A disk's device until udev has made it. */
  zfsDeviceMs: 15_000,
  /** A cut stream is gone on with from this much on; below it the newest state is there sooner. */
  zfsResumeBytes: 64 * 2 ** 20,
  /** The far side says at least this often that it is still taking a stream in. */
  zfsPatienceMs: 2_000,
  /** A stream that moved no byte for this long is given up; ZFS may wait for a transaction group in the middle of one. */
  zfsStallMs: 30_000,
  /** The state of the pools is read at least this often, and at once after an event. */
  poolLookMs: 30_000,
  /** Between two looks at a pool, however many events there are: a disk that fails tells so a thousand times. */
  poolRestMs: 1_000,
  /** Every block of a pool is read this often. */
  scrubEveryDays: 30,
  /** Samples of a pool's use for its forecast: one an hour, for a month. */
  poolSampleMs: 60 * 60_000,
  poolSamplesKept: 720,
  /** One look at a machine's disks. */
  lsblkMs: 10_000,
  /** Two looks at a management controller's power state must be this far apart to count as proof. */
  bmcReadsApartMs: 500,
  /** One call to a management controller. */
  bmcCallMs: 4_000,
  /** Longest line of JSON accepted on any of our local sockets. */
  jsonLineBytes: 1 << 20,
  /** Serial log of a guest kept before it is turned over. */
  serialLogBytes: 16 << 20,
  /** `status` watches the heartbeats this long: longer than a renewal of the standard profile … */
  statusWatchMs: 1_200,
  /** … and once more this long when a node seems silent, so that the lenient profile (2 s) is not called silent either. */
  statusWatchAgainMs: 1_600,
  /** People are told that an agent is silent when it missed five of its own signs. */
  agentSilentShownMs: 5_000,
  /** A copy is called late when it is older than two intervals and this much: one cycle may be under way and one may have failed. */
  copyLateGraceMs: 10_000,
  /** The command line looks at a request, a guest or the timeline this often while it waits. */
  cliPollMs: 300,
  /** A live agent takes a request up within a round or two; after this the command line withdraws it. */
  requestPickupMs: 15_000,
  /** The manager takes a command in its next round; after this, time for another node to take a lost lead, it is withdrawn. */
  commandPickupMs: 20_000,
  /** A move that was accepted shows in the guest's record within some rounds; later it did not begin. */
  moveBeginMs: 10_000,
  /** The command line stops waiting for a request that moves whole disks after this; the request goes on. */
  requestDeadlineMs: 60 * 60_000,
  /**
   * People are told when a guest is longer than this in a state that somebody should have ended: a choice of the manager, a place for a lost
   * guest, a move (a shutdown, then what the copy still lacks), a server's or agent's return.
   */
  overdueRoundMs: 10_000,
  overduePlaceMs: 60_000,
  overdueMoveMs: 15 * 60_000,
  overdueReturnMs: 15 * 60_000,
  /** A deletion whose answer was lost is asked about for this long, with a pause in between; nothing else is done with the guest until it is known. */
  deleteSureMs: 60_000,
  deleteAgainMs: 200,
  /** The command line waits this long for a guest to start or stop: an ACPI shutdown and a slow kernel fit in. */
  guestWaitMs: 90_000,
  /** One call of the command line to the store; people wait longer than a guard may. */
  cliStoreCallMs: 3_000,
  /** The guard looks at the clock, the cgroup and the store's answers at least this often; a fraction of the shortest watchdog (1 s). */
  guardTickMs: 100,
  /** A successor loads and connects beside the guard that serves for at most this; an emulated, busy machine needs most of a minute. */
  guardSuccessorMs: 180_000,
  /** A guard asked to stop waits this long for the store to take its permit back; without guests silence does the same later. */
  guardStopMs: 5_000,
  /** The lab's watchdog answers at once; a host that takes longer than this to say its timeout is not to be trusted with one. */
  watchdogAnswerMs: 1_000,
  /** One change of the store's membership: it is a write, and a new member may be slow to be found. */
  membershipCallMs: 5_000,
  /** A new member's way into the store: it takes over the whole record, on a busy disk. */
  memberReadyMs: 120_000,
  /** How long a member that does not answer is asked again before that counts against a removal: an election and a slow disk pass. */
  memberAnswerMs: 15_000,
  /** Our programs' start on a new node until they say that they serve. */
  programsReadyMs: 120_000,
  /** One call of systemctl that starts or stops a unit of ours; none is stopped while it has guests to wait for. */
  systemctlMs: 90_000,
  /** The members of the store change when a node joins or leaves: known soon enough for the next loss. */
  storeMembersLookMs: 20_000,
  /** How long a join code is good unless told otherwise, and at most. */
  joinCodeMs: 30 * 60_000,
  joinCodeMaxMs: 24 * 60 * 60_000,
  /** One machine at the door of a cluster: connection, question, answer. */
  joinCallMs: 15_000,
  /** Machines at the door at once; the others wait outside. */
  joinCallsAtOnce: 4,
  /** Connections at the door a minute, whoever they come from. */
  joinCallsAMinute: 60,
} as const;
