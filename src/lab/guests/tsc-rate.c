/* Prints how fast this host's time stamp counter counts, in kHz: emulated machines see the same counter, and are told. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_RAW, &t);
  return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

/* A clock and a counter that belong together: of many pairs the one that was read in the shortest time. */
static void read_pair(uint64_t *ns, uint64_t *ticks) {
  uint64_t shortest = UINT64_MAX;
  for (int i = 0; i < 200; i++) {
    uint64_t before = __rdtsc(), clock = now_ns(), after = __rdtsc();
    if (after - before >= shortest) continue;
    shortest = after - before;
    *ns = clock;
    *ticks = before + shortest / 2;
  }
}

int main(void) {
  uint64_t ns[2] = {0}, ticks[2] = {0};
  struct timespec pause = {0, 400000000};
  read_pair(&ns[0], &ticks[0]);
  nanosleep(&pause, NULL);
  read_pair(&ns[1], &ticks[1]);
  printf("%.0f\n", (double)(ticks[1] - ticks[0]) * 1e6 / (double)(ns[1] - ns[0]));
  return 0;
}
