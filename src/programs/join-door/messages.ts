import Type from 'typebox';
import type { ErrorKind } from '#base/error.ts';

const strict = { additionalProperties: false };

/** One line of JSON to the door. With `enrol` only: `machine`, a number of its own choice, and `request`, a PKCS #10 request. */
export const doorQuestion = Type.Object(
  {
    version: Type.Literal(1),
    op: Type.Enum(['hello', 'enrol']),
    code: Type.Object(
      { id: Type.String({ pattern: '^[0-9a-f]{8}$' }), secret: Type.String({ pattern: '^[0-9a-f]{32}$' }) },
      strict,
    ),
    role: Type.Enum(['node', 'witness']),
    name: Type.String({ maxLength: 32 }),
    address: Type.String({ maxLength: 45 }),
    machine: Type.Optional(Type.String({ pattern: '^[0-9a-f-]{36}$' })),
    request: Type.Optional(Type.String({ maxLength: 2_048 })),
  },
  strict,
);

export type DoorQuestion = Type.Static<typeof doorQuestion>;

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
