import type { SetupParts } from '#programs/setup/steps.ts';

/** Founding, joining, leaving, as far as the commands use them. */
export type SetupTools = {
  found: typeof import('#programs/setup/found.ts').foundNode;
  enter: typeof import('#programs/setup/enter.ts').enterCluster;
  leave: typeof import('#programs/setup/leave.ts').leaveCluster;
  makeCode: typeof import('#programs/setup/code.ts').makeJoinCode;
  replace: typeof import('#programs/setup/replace.ts').replaceNode;
  forget: typeof import('#programs/setup/replace.ts').forgetNode;
  createParts: (say: (line: string) => void) => SetupParts;
};

/** Loaded only when asked for: certificates bring a large library along. */
export async function loadSetup(): Promise<SetupTools> {
  const [found, enter, leave, code, replace, systemd] = await Promise.all([
    import('#programs/setup/found.ts'),
    import('#programs/setup/enter.ts'),
    import('#programs/setup/leave.ts'),
    import('#programs/setup/code.ts'),
    import('#programs/setup/replace.ts'),
    import('#adapters/systemd/units.ts'),
  ]);
  return {
    found: found.foundNode,
    enter: enter.enterCluster,
    leave: leave.leaveCluster,
    makeCode: code.makeJoinCode,
    replace: replace.replaceNode,
    forget: replace.forgetNode,
    createParts: (say) => ({ units: systemd.createUnits(), say }),
  };
}
