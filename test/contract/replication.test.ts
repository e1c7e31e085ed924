import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from './checker/until.ts';
import { buildRig, checkReplica, createProbeDisks, runProbeOn } from './checker/node-rig.ts';

const vmid = 100;

test('the first cycle compares against nothing, later ones send what changed, and every point is whole', async () => {
  await using rig = await buildRig(['n1', 'n2']);
  await createProbeDisks(rig, 'n1', vmid);
  await using guest = await runProbeOn(rig, 'n1', { vmid, generation: 1 });
  const { replication, logged } = rig.node('n1');
  const first = await until('the first point arrives', 20_000, () => rig.record.replicas.get(`${vmid}/n2`));
  assert.equal(first.lastCycle.kind, 'compare');
  await until('the first point is told', 5_000, () =>
    logged.some((line) => /compare of .*the target has no copy yet/.test(line)),
  );
  let counter = (await checkReplica(rig, 'n2', vmid)).counter;
  for (let cycle = 0; cycle < 5; cycle += 1) {
    await guest.reach((guest.report()?.counter ?? 0) + 20);
    const [line] = await replication.syncNow(vmid, 'n2');

    assert.match(line ?? '', /delta of .* from which the bitmap counts/);
    const verdict = await checkReplica(rig, 'n2', vmid);
    assert.ok(verdict.consistent, verdict.detail);
    assert.ok(verdict.counter > counter);
    counter = verdict.counter;
  }
  const report = guest.report();
  assert.equal(report?.ioErrors, 0);
});
