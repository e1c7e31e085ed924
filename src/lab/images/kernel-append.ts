/**
 * Kernel command line common to the lab's guests. What it switches off costs seconds on an emulated CPU and gains a throw-away guest
 * nothing: mitigations, address randomisation, timer checks, audit, zeroing of every allocation. A panic restarts the guest.
 */
export const baseAppend =
  'console=ttyS0 quiet mitigations=off nokaslr no_timer_check tsc=reliable audit=0 apparmor=0 init_on_alloc=0 cryptomgr.notests rdinit=/init panic=1';
