import type { ParametersOf, ParameterSchema, ParameterTable } from './parameter.ts';
import type { Permission } from './permission.ts';

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

/**
 * One call of an API. Its table is all there is to say of it: path with `{name}` parts, parameters with their limits, who may call it.
 * `body`: `raw` bodies are bytes for `run`, all others are parameters.
 */
export type Route<Context, Answer> = {
  method: Method;
  path: string;
  what: string;
  permission: Permission;
  parameters: ParameterTable;
  body: 'parameters' | 'raw';
  run: (params: Readonly<Record<string, unknown>>, context: Context) => Promise<Answer>;
};

type RouteText<Context, Answer, Table extends ParameterTable> = Omit<Route<Context, Answer>, 'parameters' | 'body' | 'run'> & {
  parameters: Table;
  body?: 'parameters' | 'raw';
  run: (params: ParametersOf<Table>, context: Context) => Promise<Answer>;
};

/** A maker of routes whose `run` gets the values that its own table reads. */
export function createRouteMaker<Context, Answer>(): <Table extends ParameterTable>(
  text: RouteText<Context, Answer, Table>,
) => Route<Context, Answer> {
  return (text) => ({ body: 'parameters', ...text, run: text.run as unknown as Route<Context, Answer>['run'] });
}

/** The route of a request and the values of its path's `{name}` parts; null: there is none. */
export function findRoute<Context, Answer>(
  routes: readonly Route<Context, Answer>[],
  method: string,
  path: readonly string[],
): { route: Route<Context, Answer>; values: Record<string, string> } | null {
  for (const route of routes) {
    if (route.method !== method) continue;
    const values = matchPath(route.path.split('/'), path);
    if (values !== null) return { route, values };
  }
  return null;
}

/** What an API says of its calls. */
export function describeRoutes<Context, Answer>(routes: readonly Route<Context, Answer>[]): RouteDescription[] {
  return routes.map(({ method, path, what, permission, parameters, body }) => ({
    method,
    path,
    description: what,
    permission,
    body,
    parameters: Object.fromEntries(
      Object.entries(parameters).map(([name, { schema, isOptional }]) => [name, { ...schema, optional: isOptional }]),
    ),
  }));
}

export type RouteDescription = Pick<Route<never, never>, 'method' | 'path' | 'permission' | 'body'> & {
  description: string;
  parameters: Record<string, ParameterSchema & { optional: boolean }>;
};

function matchPath(pattern: readonly string[], path: readonly string[]): Record<string, string> | null {
  if (pattern.length !== path.length) return null;
  const values: Record<string, string> = {};
  for (const [at, part] of pattern.entries()) {
    const given = path[at] ?? '';
    if (part.startsWith('{')) values[part.slice(1, -1)] = given;
    else if (part !== given) return null;
  }
  return values;
}
