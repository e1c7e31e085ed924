/**
 * @peculiar/x509 finds its algorithms through tsyringe, which refuses to load without the three functions below of the Reflect
 * metadata proposal. Nothing else here uses them, so they are written out instead of carrying the whole polyfill. Must be imported
 * before '@peculiar/x509'.
 */
type MetadataReflect = {
  defineMetadata?: (key: unknown, value: unknown, target: object) => void;
  getOwnMetadata?: (key: unknown, target: object) => unknown;
  getMetadata?: (key: unknown, target: object) => unknown;
};

const metadata = new WeakMap<object, Map<unknown, unknown>>();

function defineMetadata(key: unknown, value: unknown, target: object): void {
  const own = metadata.get(target) ?? new Map<unknown, unknown>();
  metadata.set(target, own.set(key, value));
}

function getOwnMetadata(key: unknown, target: object): unknown {
  return metadata.get(target)?.get(key);
}

function getMetadata(key: unknown, target: object): unknown {
  for (let current: object | null = target; current !== null; current = Object.getPrototypeOf(current) as object | null) {
    const own = metadata.get(current);
    if (own?.has(key)) return own.get(key);
  }
  return undefined;
}

const reflect = Reflect as MetadataReflect;
reflect.defineMetadata ??= defineMetadata;
reflect.getOwnMetadata ??= getOwnMetadata;
reflect.getMetadata ??= getMetadata;
