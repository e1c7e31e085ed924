import type { ErrorKind } from '#base/error.ts';
import { choiceShape, objectShape, optionalShape, type Shaped, textShape } from '#core/text/shape.ts';

/** One line of JSON to the door. With `enrol` only: `machine`, a number of its own choice, and `request`, a PKCS #10 request. */
export const doorQuestion = objectShape(
  {
    version: choiceShape([1]),
    op: choiceShape(['hello', 'enrol']),
    code: objectShape(
      { id: textShape({ pattern: /^[0-9a-f]{8}$/ }), secret: textShape({ pattern: /^[0-9a-f]{32}$/ }) },
      'strict',
    ),
    role: choiceShape(['node', 'witness']),
    name: textShape({ maxLength: 32 }),
    address: textShape({ maxLength: 45 }),
    machine: optionalShape(textShape({ pattern: /^[0-9a-f-]{36}$/ })),
    request: optionalShape(textShape({ maxLength: 2_048 })),
  },
  'strict',
);

export type DoorQuestion = Shaped<typeof doorQuestion>;

/** What a machine that joins has to know. */
export type DoorWelcome = {
  ok: true;
  cluster: { id: string; name: string };
  nowMs: number;
  profile: string;
  /** Where the store's members are reached. */
  endpoints: string[];
  /** After `enrol`: its certificate and the authority's; `authorityKey` for nodes only. */
  enrolled: { certificate: string; authority: string; authorityKey: string | null } | null;
};

export type DoorAnswer = DoorWelcome | { ok: false; kind: ErrorKind; message: string };
