import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAppError } from '#base/error.ts';
import { choice, flag, integer, list, optional, parsed, readParameters, text } from './parameter.ts';
import { decidePermission, fillPath } from './permission.ts';
import { createRouteMaker, describeRoutes, findRoute } from './route.ts';

const table = {
  vmid: integer(100, 200, 'a number'),
  name: optional(text(5, 'a name')),
  force: flag('at once'),
  how: choice(['soft', 'hard'], 'how'),
  ns: optional(parsed(20, 'levels', (value) => value.split('/'))),
  filter: list(text(3, 'one'), 2, 'some'),
};

test('parameters are read by their table, from texts and from JSON', () => {
  assert.deepEqual(readParameters(table, { vmid: '100', how: 'soft', force: '1', ns: 'a/b', filter: 'x' }), {
    vmid: 100,
    name: null,
    force: true,
    how: 'soft',
    ns: ['a', 'b'],
    filter: ['x'],
  });
  assert.deepEqual(readParameters(table, { vmid: 200, how: 'hard', name: 'abc', filter: ['x', 'y'] }).filter, ['x', 'y']);
});

test('what does not fit is refused, naming the field', () => {
  const good = { vmid: 100, how: 'soft' };
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ how: 'soft' }, /^vmid: it is missing/],
    [{ ...good, vmid: 99 }, /^vmid: 99 is not a whole number from 100 to 200/],
    [{ ...good, vmid: '1e2' }, /^vmid: /],
    [{ ...good, vmid: 100.5 }, /^vmid: /],
    [{ ...good, name: 'abcdef' }, /^name: .*at most 5 letters/],
    [{ ...good, name: { length: 1 } }, /^name: /],
    [{ ...good, how: 'x'.repeat(10_000) }, /^how: .{0,120}$/],
    [{ ...good, force: 'perhaps' }, /^force: /],
    [{ ...good, filter: ['a', 'b', 'c'] }, /^filter: /],
    [{ ...good, extra: 1 }, /^extra: there is no such parameter/],
    [{ ...good, ['__proto__x']: 1 }, /^__proto__x: /],
  ];
  for (const [given, pattern] of cases)
    assert.throws(
      () => readParameters(table, given),
      (error) => isAppError(error, 'invalid') && pattern.test(error.message),
      JSON.stringify(given).slice(0, 100),
    );
});

test('a route is found by method and path, and describes itself', async () => {
  const route = createRouteMaker<{ caller: string }, string>();
  const routes = [
    route({
      method: 'GET',
      path: 'things/{thing}/parts',
      what: 'lists parts',
      permission: { kind: 'known' },
      parameters: { thing: text(10, 'which'), limit: optional(integer(1, 9, 'how many')) },
      run: (params, { caller }) => Promise.resolve(`${caller} ${params.thing} ${params.limit ?? 'all'}`),
    }),
  ];
  assert.equal(findRoute(routes, 'POST', ['things', 'a', 'parts']), null);
  assert.equal(findRoute(routes, 'GET', ['things', 'a']), null);
  const found = findRoute(routes, 'GET', ['things', 'a', 'parts']);
  assert.ok(found);
  const params = readParameters(found.route.parameters, { ...found.values, limit: '3' });
  assert.equal(await found.route.run(params, { caller: 'me' }), 'me a 3');
  const described = describeRoutes(routes)[0];
  assert.deepEqual(described?.parameters['limit'], {
    type: 'integer',
    description: 'how many',
    minimum: 1,
    maximum: 9,
    optional: true,
  });
});

test('permissions are asked on the path that the parameters name', () => {
  assert.equal(fillPath('/datastore/{store}/{ns}', { store: 'a', ns: ['x', 'y'] }), '/datastore/a/x/y');
  assert.equal(fillPath('/datastore/{store}/{ns}', { store: 'a', ns: null }), '/datastore/a');
  assert.equal(fillPath('/datastore/{store}/{ns:parent}', { store: 'a', ns: ['x', 'y'] }), '/datastore/a/x');
  const permission = {
    kind: 'rights',
    on: '/datastore/{store}',
    any: ['Datastore.Modify'],
    ifOwner: ['Datastore.Prune'],
  } as const;
  const decide = (...mine: string[]) => decidePermission(permission, { store: 'a' }, (_, privilege) => mine.includes(privilege));
  assert.deepEqual(
    [decide('Datastore.Modify'), decide('Datastore.Prune'), decide('Datastore.Audit')],
    ['allowed', 'if-owner', 'denied'],
  );
});
