const { runSeed } = await import('./src/sim/simulation.ts');
const { Cluster } = await import('./src/sim/cluster.ts');
let c: any; const say = Cluster.prototype.say;
Cluster.prototype.say = function (t: string) { c = this; say.call(this, t); };
const r = runSeed({ seed: Number(process.argv[2]), hours: 1 });
console.log(r.violation);
for (const h of c.hosts) console.log(h.name, h.powered, h.plugged, 'guard', h.guard?.state.mode, 'agent', h.agent !== null, 'ready', h.agent?.ready, 'alive', h.agent?.alive, 'paused', h.agent?.pausedUntilMs, 'still', h.stillUntilMs, 'member', h.isMemberUp(), 'wb', h.watchdogBroken, 'file', h.guardFile?.phase, h.guardFile?.problems, 'boot', h.bootId, 'mem', h.memoryMb);
for (const [k, e] of c.store.entries) if (/guest|agent|memory|permit|heartbeat|resource|disarm/.test(k)) console.log(k, e.text.slice(0, 600));
for (const h of c.hosts) for (const v of c.vmids) { const m = h.disk.manifest(v); console.log(h.name, v, m && JSON.stringify({ role: m.role, gen: m.generation, pts: m.points?.length, handedOver: m.handedOver })); }
console.log('net', c.network);
