/** One driver: its file name and the names of the modules it needs loaded before it. */
export type KernelModule = { name: string; depends: string[] };

/** The `depends=` field that every Linux module carries; empty when it needs nothing. */
export function readModuleDepends(module: Uint8Array): string[] {
  const text = Buffer.from(module.buffer, module.byteOffset, module.byteLength).toString('latin1');
  // eslint-disable-next-line no-control-regex -- fields of a module's information section end with a zero byte
  const field = /\0depends=([^\0]*)\0/.exec(text)?.[1] ?? '';
  return field === '' ? [] : field.split(',');
}

/**
 * File names of `wanted` and everything they depend on, each after its dependencies. `known` tells a module by its name (dashes and
 * underscores are the same to Linux).
 */
export function orderModules(wanted: string[], known: (name: string) => KernelModule): string[] {
  const ordered: string[] = [];
  const visit = (name: string): void => {
    const module = known(name);
    if (ordered.includes(module.name)) return;
    for (const dependency of module.depends) visit(dependency);
    ordered.push(module.name);
  };
  for (const name of wanted) visit(name);
  return ordered;
}
