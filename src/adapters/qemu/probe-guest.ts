/** The machine code of probe-guest.S, which says what it does and how to make these bytes from it. */
export const probeGuestImage = Buffer.from(
  'ArCtGwAAAQD+T1HkAAAQAAAAEAA8ARAAPAEQACAAEAD6id28AAAIAPy/AAAgADHAuQAQAADzq8cFAAAgAAMQIADHBQAQIAADICAAvwAgIAC4gw' +
    'AAALkAAgAAiQcFAAAgAIPHCOL0DyDgg8ggDyLguAAAIAAPIti5gAAAwA8yDQABAAAPMA8gwA0BAACADyLADwEVKAEQAOqeABAACAC4EAAAAI7Y' +
    'jsCO0LjVABAAv2AwIABmiQdmx0cCCABmx0cEAI7B6BBmiUcGDwEcJTIBEAAPC+sfie2LdRCshMB0B+gTAAAA6/SwCugKAAAAZrr0ALAQ7vTr/Y' +
    'jEZrr9A+yoIHT7Zrr4A4jg7sNmDx9EAAAAAAAAAAAAAAAAAAAAmiAAAAAAAACSAAAXABABEAAAAAAAbwAAMCAAAAAAAA==',
  'base64',
);

/** What the probe guest writes to the debug-exit device, as QEMU's exit code: (0x10 << 1) | 1. */
export const probeGuestExitCode = 33;
