import { join } from 'node:path';
import { createFenceAgentBmc } from '#adapters/bmc/fence-agent.ts';
import { createNetwork } from '#adapters/network/guest-ports.ts';
import { createHypervisor } from '#adapters/qemu/hypervisor.ts';
import { followPoolEvents, readPools, scrubPool } from '#adapters/zfs/pools.ts';
import { setGuestTime } from '#adapters/qmp/guest-agent.ts';
import { connectQmp } from '#adapters/qmp/qmp-client.ts';
import { AppError, formatErrorChain } from '#base/error.ts';
import { limits } from '#base/limits.ts';
import { guestRunPaths } from '#core/guest/guest-paths.ts';
import type { GuestRecord } from '#core/guest/guest-record.ts';
import { listLacking } from '#core/guest/qmp-schema.ts';
import { keys, prefixes, wakesLoops } from '#core/ha/keys.ts';
import { poolOf } from '#core/storage/zfs/names.ts';
import { suspectAfterMs } from '#core/ha/claim.ts';
import type { JoinCodeRecord } from '#core/cluster/admission.ts';
import { createObserver, observeHeartbeat } from '#core/ha/observer.ts';
import type { Heartbeat } from '#core/ha/records.ts';
import type { Clock } from '#ports/clock.ts';
import type { Store, StoreHealth } from '#ports/store.ts';
import { sayAlive } from '#programs/agent/alive.ts';
import { createBackupDesk } from '#programs/agent/backup-desk.ts';
import { runBackupJobs } from '#programs/agent/backup-jobs.ts';
import { createBell } from '#programs/agent/bell.ts';
import { createControllers } from '#programs/agent/controllers.ts';
import { tellGuestLoad } from '#programs/agent/guest-load.ts';
import { releaseExpiredTails } from '#programs/agent/expired-tails.ts';
import { createGuestLoop } from '#programs/agent/guest-loop.ts';
import { followGuard } from '#programs/agent/guard-watch.ts';
import { createLiveRestores } from '#programs/agent/live-restores.ts';
import { runManagerLoop } from '#programs/agent/manager-loop.ts';
import { removeLeftScratch } from '#programs/agent/left-scratch.ts';
import { createNodeEnd } from '#programs/agent/node-end.ts';
import { publishNodeInfo } from '#programs/agent/node-info.ts';
import { createNodeMode } from '#programs/agent/node-mode.ts';
import { openNodeStorage } from '#programs/agent/node-storage.ts';
import { watchPool } from '#programs/agent/pool-watch.ts';
import { publishKeptDisks } from '#programs/agent/kept-disks.ts';
import { createRestoreDesk } from '#programs/agent/restore-desk.ts';
import { dropDeletedCopies } from '#programs/agent/guest-deletion.ts';
import { runRequests } from '#programs/agent/requests.ts';
import { followWorld, type World } from '#programs/agent/world.ts';
import { runJoinDoor } from '#programs/join-door/door.ts';
import type { Log } from '#programs/log.ts';
import type { NodeConfig } from '#programs/node-config.ts';
import type { Replication } from '#programs/replication/replication.ts';

export type AgentParts = { config: NodeConfig; store: Store & StoreHealth; clock: Clock; bootId: string; log: Log };

/**
 * Puts the agent together and runs it until `signal` aborts.
 *
 *   one watch of the record ──> world ──rings──> guest loop (this node's guests)
 *            │                        └─rings──> manager loop (when elected), requests, node info
 *            └ heartbeats ──> observer (warm timers, on every node)
 *   guard.json ──> epoch, thaw, clear
 */
export async function runAgent(parts: AgentParts, signal: AbortSignal): Promise<void> {
  const { config, store, clock, bootId, log } = parts;
  const { name, run: runDir, data: dataDir } = config.node;
  const scratch = join(dataDir, 'scratch');
  const bells = { guests: createBell(), manager: createBell(), requests: createBell(), info: createBell(), door: createBell() };
  const ringAll = () => Object.values(bells).forEach((bell) => bell.ring());

  let observer = createObserver(name, config.timing.softMs);
  const controllers = createControllers({
    clock,
    openBmc: createFenceAgentBmc,
    onAnswer: (node, text) => {
      log.info({ event: 'controller.answered', target: node }, text);
      bells.manager.ring();
    },
  });
  const observe = (world: World, touched: string[], atBootMs: number) => {
    for (const key of touched) {
      if (!key.startsWith(prefixes.nodes) || !key.endsWith('/heartbeat')) continue;
      const node = key.slice(prefixes.nodes.length, -'/heartbeat'.length);
      const heartbeat = world.read<Heartbeat>(key);
      if (heartbeat === null) continue;
      const before = observer.nodes[node];
      if (before !== undefined && atBootMs - before.lastSightBootMs > suspectAfterMs(config.timing)) peersBack.add(node);
      observer = observeHeartbeat(observer, node, heartbeat.value, heartbeat.modRevision, atBootMs);
      controllers.forget(node);
    }
  };
  const storageRoom: { replication: Replication | null } = { replication: null };
  const peersBack = new Set<string>();
  const { world, done: worldDone } = followWorld(
    {
      store,
      clock,
      onChange: (touched, atBootMs) => {
        observe(world, touched, atBootMs);
        for (const node of peersBack) storageRoom.replication?.notePeerBack(node);
        peersBack.clear();
        if (touched.some((key) => wakesLoops(key))) ringAll();
      },
      onTrouble: (text) => log.warn({ event: 'record.unreadable' }, text),
    },
    signal,
  );

  const network = createNetwork({ uid: config.guests.uid, gid: config.guests.gid });
  const hypervisor = createHypervisor({
    dataDir,
    runDir,
    cgroupDir: config.guests.cgroup,
    uid: config.guests.uid,
    gid: config.guests.gid,
    accelerator: config.guests.accelerator,
    network,
    connectQmp,
  });
  const hypervisorFacts = await hypervisor.probe();
  const lacking = listLacking(await hypervisor.probeFeatures());
  log.info({ event: 'hypervisor.probed', ...hypervisorFacts, lacking }, hypervisorFacts.because);
  const ownProblems = lacking.length === 0 ? [] : [`its QEMU lacks ${lacking.join(', ')}`];
  const { storage, replication, points, rests } = openNodeStorage({ config, store, world, clock, log });
  storageRoom.replication = replication;

  const guard = followGuard({
    runDir,
    onChange: (state) => {
      log.info({ event: 'guard.changed', phase: state.phase, epoch: state.epoch, problems: state.problems }, state.because);
      ringAll();
    },
    onThaw: () => void setClocks(),
    onClear: () => void cutAllPorts(),
    onTrouble: (text) => log.warn({ event: 'guard.unreadable' }, text),
  });
  const nodeMode = createNodeMode({ self: name, bootId, store, clock, onChange: ringAll });
  const guests = createGuestLoop({
    self: name,
    store,
    world,
    clock,
    bell: bells.guests,
    hypervisor,
    storage,
    replication: {
      ...replication,
      startGuest(guest) {
        backups.takeOver(guest);
        replication.startGuest(guest);
      },
    },
    readEpoch: () => (nodeMode.isLoaded() ? guard.epoch() : null),
    readEnding: () => nodeMode.ending(),
    log,
  });
  const backups = createBackupDesk({
    self: name,
    node: name,
    store,
    run: runDir,
    scratch,
    scratchLimitBytes: limits.backupScratchBytes,
    user: { uid: config.guests.uid, gid: config.guests.gid },
    points,
    rests,
    clock,
    storage,
    running: () => guests.running(),
    yieldingly: (vmid, work) => guests.yieldingly(vmid, work),
    readEpoch: () => guard.epoch(),
    log: (text) => log.info({ event: 'backup' }, text),
  });
  const restores = createRestoreDesk({
    self: name,
    store,
    storage,
    readEpoch: () => guard.epoch(),
    isRunning: (vmid) => guests.running().some((guest) => guest.vmid === vmid),
  });
  const live = createLiveRestores({
    self: name,
    run: runDir,
    user: { uid: config.guests.uid, gid: config.guests.gid },
    store,
    world,
    storage,
    guests,
    log: (text) => log.info({ event: 'restore' }, text),
  });
  const nodeEnd = createNodeEnd({ self: name, world, clock, nodeMode, guests, log });
  async function setClocks(): Promise<void> {
    for (const guest of guests.running()) {
      const outcome = await setGuestTime(guestRunPaths(runDir, guest.vmid).guestAgent, clock.wallMs());
      log.info({ event: 'guest.clock-after-thaw', guest: guest.vmid }, outcome.kind === 'set' ? 'set' : outcome.because);
    }
  }
  async function cutAllPorts(): Promise<void> {
    for (const guest of guests.running()) {
      await network.cutPorts(guest.vmid).catch((error: unknown) => {
        log.warn({ event: 'guest.ports-not-cut', guest: guest.vmid, err: error }, 'its process is being killed as well');
      });
    }
  }
  const memoryOf = (vmid: number) => world.read<GuestRecord>(keys.guest(vmid))?.value.config.memoryMb ?? 0;
  const info = async () => {
    while (!signal.aborted) {
      await tryOften(log, 'node.info-not-written', async () => {
        const state = guard.state();
        const device = state?.watchdog;
        const timeoutMs = device?.timeoutMs ?? null;
        const watchdog = device === undefined || timeoutMs === null ? null : { device: device.device, timeoutMs };
        await publishNodeInfo({
          name,
          address: config.node.address,
          relayPort: config.relay.port,
          bootId,
          store,
          world,
          storage,
          hypervisor: hypervisorFacts,
          readGuard: () => (state === null ? null : { watchdog, problems: [...state.problems, ...ownProblems] }),
        });
      });
      await tryOften(log, 'node.mode-not-said', async () => nodeMode.assure());
      await tryOften(log, 'scratch.not-removed', async () => {
        for (const vmid of removeLeftScratch(scratch, runDir))
          log.info({ event: 'scratch.removed', guest: vmid }, 'its process is gone');
      });
      if (world.isReady()) {
        await tryOften(log, 'copy.not-dropped', async () => dropDeletedCopies({ self: name, store, world, storage, log }));
        await tryOften(log, 'tail.not-released', async () => {
          for (const vmid of await releaseExpiredTails({ storage, world, clock, log }))
            await publishKeptDisks({ self: name, store, storage }, vmid);
        });
      }
      await bells.info.next(limits.agentRoundMs, signal);
    }
  };

  await Promise.all([
    worldDone,
    sayAlive(runDir, clock, () => guests.running(), memoryOf, signal),
    tellGuestLoad(
      {
        self: name,
        store,
        clock,
        running: () => guests.running(),
        onTrouble: (error) => log.warn({ event: 'guest.load-not-told', err: error }, 'told again soon'),
      },
      signal,
    ),
    guard.run(signal),
    replication.serve(signal),
    nodeMode.load(signal),
    guests.run(signal),
    live.run(signal),
    info(),
    watchOwnPool(parts, world, signal),
    runRequests(
      {
        self: name,
        bootId,
        run: runDir,
        clock,
        store,
        world,
        bell: bells.requests,
        storage,
        guests,
        syncNow: (vmid, target) => replication.syncNow(vmid, target ?? undefined),
        nodeEnd,
        backups,
        restores,
        live,
        log,
      },
      signal,
    ),
    runBackupJobs(
      {
        self: name,
        store,
        world,
        clock,
        running: () => guests.running(),
        desk: backups,
        log: (text) => log.info({ event: 'backup' }, text),
      },
      signal,
    ),
    runJoinDoor(
      {
        config,
        store,
        nowMs: () => clock.wallMs(),
        listCodes: () => world.list<JoinCodeRecord>(prefixes.joinCodes),
        nextBell: () => bells.door.next(limits.agentRoundMs, signal),
        onJudged: (text) => log.info({ event: 'join.judged' }, text),
        onTrouble: (text) => log.warn({ event: 'join.trouble' }, text),
      },
      signal,
    ),
    runManagerLoop(
      { self: name, store, world, clock, timing: config.timing, observer: () => observer, controllers, bell: bells.manager, log },
      signal,
    ),
  ]);
}

async function watchOwnPool({ config, store, clock, log }: AgentParts, world: World, signal: AbortSignal): Promise<void> {
  const { name: self, data } = config.node;
  if (config.storage.driver !== 'zfs') return;
  const pool = poolOf(config.storage.dataset);
  const readPool = async (name: string) => {
    const [look] = await readPools(name);
    if (look === undefined) throw new AppError('missing', `look at pool ${name}: it is not imported`);
    return look;
  };
  const startScrub = async (name: string) => scrubPool(name, 'start');
  const restMs = limits.poolRestMs;
  await watchPool(
    { self, pool, data, store, world, clock, readPool, startScrub, followEvents: followPoolEvents, restMs, log },
    signal,
  );
}

async function tryOften(log: Log, event: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    log.warn({ event, err: error }, `${formatErrorChain(error)}; tried again next round`);
  }
}
