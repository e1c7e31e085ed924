/** Where a guest's own files lie on its node, under the data and run folders of node.toml. */

/** The run folder's part: empty after each boot of the node, so nothing here outlives the QEMU process it speaks of. */
export function guestRunPaths(runDir: string, vmid: number) {
  const folder = `${runDir}/guests/${vmid}`;
  return {
    folder,
    /** The agent's own QMP connection; QEMU serves one client per socket at a time. */
    qmp: `${folder}/qmp.sock`,
    /** A second QMP monitor, for everybody else. */
    qmp2: `${folder}/qmp2.sock`,
    /** The host's end of the channel to the agent program inside the guest. */
    guestAgent: `${folder}/qga.sock`,
    /** Which process this is: see adapters/qemu/guest-meta.ts. */
    meta: `${folder}/meta.json`,
    pid: `${folder}/qemu.pid`,
    /** There while the guest is being brought to its end for good: its CPUs must not be let run by whoever finds them stopped. */
    halt: `${folder}/halt`,
  };
}

/** The data folder's part: kept across boots. */
export function guestDataPaths(dataDir: string, vmid: number) {
  const folder = `${dataDir}/guests/${vmid}`;
  return {
    folder,
    /** What the guest wrote on its serial port, all generations in one file. */
    serialLog: `${folder}/serial.log`,
    /** QEMU's own words. */
    qemuLog: `${folder}/qemu.log`,
  };
}

/** The host's end of a guest's network card; the same name on every node. At most 15 bytes, the kernel's limit. */
export function portName(vmid: number, nicIndex: number): string {
  return `hf${vmid}n${nicIndex}`;
}

/** True when `name` is the port of one of the guest's cards. */
export function isPortOf(vmid: number, name: string): boolean {
  return new RegExp(`^hf${vmid}n[0-9]$`).test(name);
}
