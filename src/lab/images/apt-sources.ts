import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '#base/error.ts';

const configuration = '/etc/apt';

/** Whether these suites and components are Debian's own for this release, and not somebody else's repository beside it. */
function isDebian(suites: string[], components: string[], codename: string): boolean {
  const own = new Set(['', '-updates', '-security'].flatMap((part) => [`${codename}${part}`, `${codename}/updates${part}`]));
  return suites.length > 0 && suites.every((suite) => own.has(suite)) && components.includes('main');
}

/** Debian's own entries of a one-line file (`deb URI SUITE COMPONENT …`), others left out. */
export function chooseSourceLines(text: string, codename: string): string[] {
  return text.split('\n').filter((line) => {
    const words = line
      .replace(/#.*/, '')
      .replace(/\[[^\]]*\]/, '')
      .trim()
      .split(/\s+/);
    return words[0] === 'deb' && isDebian(words.slice(2, 3), words.slice(3), codename);
  });
}

/** Debian's own paragraphs of a deb822 file, others (and disabled ones) left out. */
export function chooseSourceParagraphs(text: string, codename: string): string[] {
  const paragraphs = text.split(/\n(?:[ \t]*\n)+/).map((paragraph) => paragraph.replaceAll(/^#.*\n?/gm, '').trim());
  return paragraphs.filter((paragraph) => {
    const field = (name: string) =>
      (new RegExp(`^${name}:(.*)$`, 'im').exec(paragraph)?.[1] ?? '').split(/\s+/).filter((word) => word !== '');
    const isOn = !/^Enabled:\s*(no|false|off|0)\b/im.test(paragraph);
    return isOn && field('Types').includes('deb') && isDebian(field('Suites'), field('Components'), codename);
  });
}

type OwnSources = { suite: string; lines: string[]; paragraphs: string[] };

/** Debian's own entries in this host's apt configuration. Raises AppError missing when there are none. */
function readOwnSources(): OwnSources {
  const suite = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? '';
  const parts = join(configuration, 'sources.list.d');
  const folder = existsSync(parts) ? readdirSync(parts).toSorted() : [];
  const paths = [join(configuration, 'sources.list'), ...folder.map((name) => join(parts, name))].filter((path) =>
    existsSync(path),
  );
  const read = (ending: string) => paths.filter((path) => path.endsWith(ending)).map((path) => readFileSync(path, 'utf8'));
  const lines = read('.list').flatMap((text) => chooseSourceLines(text, suite));
  const paragraphs = read('.sources').flatMap((text) => chooseSourceParagraphs(text, suite));
  if (lines.length + paragraphs.length === 0) {
    throw new AppError(
      'missing',
      `building a guest: ${configuration} names no Debian source for "${suite}"; the guest is made of Debian packages`,
    );
  }
  return { suite, lines, paragraphs };
}

/**
 * Writes the machine's own Debian sources, and no others, as files below `directory` for mmdebstrap, so that a guest comes from wherever the
 * machine's packages come from. Raises AppError missing when the machine has none.
 */
export function writeDebianSources(directory: string): { suite: string; files: string[] } {
  const { suite, lines, paragraphs } = readOwnSources();
  const files = [
    { path: join(directory, 'debian.list'), entries: lines, between: '\n' },
    { path: join(directory, 'debian.sources'), entries: paragraphs, between: '\n\n' },
  ].filter(({ entries }) => entries.length > 0);
  for (const { path, entries, between } of files) writeFileSync(path, `${entries.join(between)}\n`);
  return { suite, files: files.map(({ path }) => path) };
}

/** Address of a Debian mirror in chosen entries (other releases lie there too); null when there is only one for security updates. */
export function findMirror(sources: OwnSources): string | null {
  const uris = [
    ...sources.lines
      .map((line) =>
        line
          .replace(/\[[^\]]*\]/, '')
          .trim()
          .split(/\s+/),
      )
      .map((words) => ({ uri: words[1], suites: words.slice(2, 3) })),
    ...sources.paragraphs.map((paragraph) => {
      const field = (name: string) => new RegExp(`^${name}:(.*)$`, 'im').exec(paragraph)?.[1]?.trim().split(/\s+/) ?? [];
      return { uri: field('URIs')[0], suites: field('Suites') };
    }),
  ];
  return uris.find(({ suites }) => suites.includes(sources.suite))?.uri ?? null;
}

/** Where this host's Debian comes from. Raises AppError missing when its apt configuration does not say. */
export function readDebianMirror(): string {
  const uri = findMirror(readOwnSources());
  if (uri === null) throw new AppError('missing', `looking for a Debian mirror: ${configuration} names only security updates`);
  return uri;
}
