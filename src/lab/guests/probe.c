/*
 * The probe guest's only program: the witness for lost writes and double runs.
 *
 *   writer thread                                   sender (main thread)
 *   every hf.intervalms, hf.blocks times:           after each tick of the writer, and at least once an interval
 *     block n+1 -> data disk, fdatasync               even when a write hangs:
 *     number n+1 -> counter disk, fdatasync           one JSON datagram with the newest durable counter
 *     n = n+1
 *
 * At start it reads n from the counter disk, compares the whole data disk with the sequence 1..n (n+1 may be in flight) and
 * says so in every datagram. The host-side twin of the on-disk format is src/lab/images/probe-disks.ts: change both.
 *
 * Settings come from the kernel command line: holdfast.vmid, holdfast.generation, hf.collector=ADDRESS:PORT, hf.intervalms,
 * hf.blocks.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 4096
#define BLOCK_WORDS (BLOCK_BYTES / 4)
#define READ_BLOCKS 256
/* Odd, so that multiplying by it permutes the slots of a power-of-two disk: neighbours in time are not neighbours on disk. */
#define SLOT_STRIDE 40503u
#define BLOCK_MAGIC 0x42504648u   /* "HFPB" */
#define COUNTER_MAGIC 0x43504648u /* "HFPC" */
#define RETRY_MS 100

struct settings {
  long vmid, generation, interval_ms, blocks;
  struct sockaddr_in collector;
};

struct disk {
  int fd;
  uint64_t slots; /* data disk only: the largest power of two of blocks that fits */
};

static struct settings settings = {.interval_ms = 100, .blocks = 1};
static struct disk data_disk, counter_disk;
static uint64_t boot_random;
static int tick_event;

static atomic_uint_fast64_t counter;       /* newest number durable on both disks */
static atomic_uint_fast64_t max_write_ms;  /* longest single block+number write since boot */
static atomic_uint_fast64_t io_errors;
static atomic_uint_fast64_t writing_since; /* uptime at which the write in progress began; 0: none */
static uint64_t recovered_counter;
static atomic_int consistent = -1; /* -1: still looking */
static char mismatch[160];

/* Boot-time clock: it counts time spent frozen or suspended, so a gap in our life shows as a jump. */
static uint64_t uptime_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t wall_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void say(const char *format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  printf("holdfast-guest: %" PRIu64 " ms: %s\n", uptime_ms(), line);
  fflush(stdout);
}

static void sleep_ms(uint64_t ms) {
  struct timespec t = {ms / 1000, (ms % 1000) * 1000000};
  nanosleep(&t, NULL);
}

/* ---- the sequence ---- */

static uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

static void make_block(uint64_t index, uint32_t *words) {
  uint32_t state = mix((uint32_t)index ^ mix((uint32_t)(index >> 32) + 0x9e3779b9u)) | 1;
  words[0] = BLOCK_MAGIC;
  words[1] = (uint32_t)index;
  words[2] = (uint32_t)(index >> 32);
  for (int i = 3; i < BLOCK_WORDS; i++) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    words[i] = state;
  }
}

static uint64_t slot_of(uint64_t index, uint64_t slots) {
  return ((index - 1) * SLOT_STRIDE) & (slots - 1);
}

/* ---- the counter record: two slots in turn, so that a torn write never loses the number before it ---- */

struct counter_record {
  uint32_t magic, check;
  uint64_t counter, generation, uptime_ms, wall_ms;
};

static uint32_t check_of(const struct counter_record *record) {
  const uint32_t *words = (const uint32_t *)&record->counter;
  uint32_t sum = COUNTER_MAGIC;
  for (int i = 0; i < 8; i++) sum = mix(sum ^ words[i]);
  return sum;
}

static bool read_counter(void *page, uint64_t *found) {
  *found = 0;
  for (int slot = 0; slot < 2; slot++) {
    if (pread(counter_disk.fd, page, BLOCK_BYTES, slot * BLOCK_BYTES) != BLOCK_BYTES) return false;
    const struct counter_record *record = page;
    if (record->magic == COUNTER_MAGIC && record->check == check_of(record) && record->counter > *found)
      *found = record->counter;
  }
  return true;
}

/* ---- disks ---- */

static int write_whole(int fd, const void *buffer, uint64_t offset) {
  if (pwrite(fd, buffer, BLOCK_BYTES, offset) != BLOCK_BYTES) return -1;
  return fdatasync(fd);
}

static int write_number(uint64_t number, void *page) {
  struct counter_record record = {.magic = COUNTER_MAGIC,
                                  .counter = number,
                                  .generation = settings.generation,
                                  .uptime_ms = uptime_ms(),
                                  .wall_ms = wall_ms()};
  record.check = check_of(&record);
  memset(page, 0, BLOCK_BYTES);
  memcpy(page, &record, sizeof record);
  return write_whole(counter_disk.fd, page, (number % 2) * BLOCK_BYTES);
}

/* Bounds the wait for a disk that the kernel is still finding; a guest without its disks must say so, not hang silently. */
static void open_disk(const char *path, struct disk *disk) {
  uint64_t bytes = 0;
  for (int tries = 0; tries < 100; tries++) {
    disk->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk->fd >= 0) break;
    sleep_ms(RETRY_MS);
  }
  if (disk->fd < 0 || ioctl(disk->fd, BLKGETSIZE64, &bytes) != 0 || bytes < 2 * BLOCK_BYTES) {
    say("fatal: cannot open %s: %s", path, strerror(errno));
    exit(1);
  }
  disk->slots = 1;
  while (disk->slots * 2 * BLOCK_BYTES <= bytes) disk->slots *= 2;
}

/* Whether a slot holds what the sequence 1..last put there; the slot of last+1 may hold the old block, the new one or a mix. */
static bool slot_is_right(const uint8_t *found, uint64_t expected, bool in_flight, uint64_t last) {
  static uint32_t old_block[BLOCK_WORDS], new_block[BLOCK_WORDS];
  memset(old_block, 0, sizeof old_block);
  if (expected != 0) make_block(expected, old_block);
  if (!in_flight) return memcmp(found, old_block, BLOCK_BYTES) == 0;
  make_block(last + 1, new_block);
  for (int at = 0; at < BLOCK_BYTES; at += 512)
    if (memcmp(found + at, (uint8_t *)old_block + at, 512) != 0 && memcmp(found + at, (uint8_t *)new_block + at, 512) != 0)
      return false;
  return true;
}

static bool verify_data(uint64_t last, void *buffer) {
  uint64_t slots = data_disk.slots;
  uint32_t *expected = calloc(slots, sizeof *expected); /* distance back from `last`, plus one; 0: never written */
  uint64_t oldest = last > slots ? last - slots + 1 : 1;
  for (uint64_t i = oldest; i <= last; i++) expected[slot_of(i, slots)] = last - i + 1;
  uint64_t in_flight = slot_of(last + 1, slots);
  bool right = true;
  for (uint64_t slot = 0; right && slot < slots; slot++) {
    if (slot % READ_BLOCKS == 0) {
      size_t want = (slots - slot < READ_BLOCKS ? slots - slot : READ_BLOCKS) * BLOCK_BYTES;
      if (pread(data_disk.fd, buffer, want, slot * BLOCK_BYTES) != (ssize_t)want) {
        atomic_fetch_add(&io_errors, 1);
        right = false;
        snprintf(mismatch, sizeof mismatch, "slot %" PRIu64 " cannot be read", slot);
        break;
      }
    }
    uint64_t index = expected[slot] == 0 ? 0 : last - expected[slot] + 1;
    if (!slot_is_right((uint8_t *)buffer + (slot % READ_BLOCKS) * BLOCK_BYTES, index, slot == in_flight, last)) {
      snprintf(mismatch, sizeof mismatch, "slot %" PRIu64 " does not hold block %" PRIu64, slot, index);
      right = false;
    }
  }
  free(expected);
  return right;
}

/* ---- the two loops ---- */

static void write_next(uint64_t number, uint32_t *block, void *page) {
  uint64_t began = uptime_ms();
  atomic_store(&writing_since, began);
  make_block(number, block);
  while (write_whole(data_disk.fd, block, slot_of(number, data_disk.slots) * BLOCK_BYTES) != 0) {
    atomic_fetch_add(&io_errors, 1);
    sleep_ms(RETRY_MS);
  }
  while (write_number(number, page) != 0) {
    atomic_fetch_add(&io_errors, 1);
    sleep_ms(RETRY_MS);
  }
  uint64_t took = uptime_ms() - began;
  if (took > atomic_load(&max_write_ms)) atomic_store(&max_write_ms, took);
  atomic_store(&counter, number);
  atomic_store(&writing_since, 0);
}

static void *writer(void *buffer) {
  bool right = verify_data(recovered_counter, buffer);
  atomic_store(&consistent, right);
  say("recovered counter %" PRIu64 ", disks %s %s", recovered_counter, right ? "consistent" : "NOT CONSISTENT", mismatch);
  uint32_t *block = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
  void *page = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
  uint64_t number = recovered_counter;
  uint64_t due = uptime_ms();
  for (;;) {
    for (long i = 0; i < settings.blocks; i++) write_next(++number, block, page);
    eventfd_write(tick_event, 1);
    due += settings.interval_ms;
    uint64_t now = uptime_ms();
    if (due > now) sleep_ms(due - now);
    else due = now; /* after a freeze, go on at the usual rate: a burst would look like lost time made up */
  }
  return NULL;
}

static void send_state(int socket_fd) {
  char text[700];
  uint64_t since = atomic_load(&writing_since), now = uptime_ms();
  int state = atomic_load(&consistent);
  int length = snprintf(
      text, sizeof text,
      "{\"vmid\":%ld,\"generation\":%ld,\"counter\":%" PRIu64 ",\"bootRandom\":\"%016" PRIx64 "\",\"uptimeMs\":%" PRIu64
      ",\"wallMs\":%" PRIu64 ",\"maxWriteMs\":%" PRIu64 ",\"writingMs\":%" PRIu64 ",\"ioErrors\":%" PRIu64
      ",\"recoveredCounter\":%" PRIu64 ",\"consistent\":%s,\"detail\":\"%s\"}",
      settings.vmid, settings.generation, (uint64_t)atomic_load(&counter), boot_random, now, wall_ms(),
      (uint64_t)atomic_load(&max_write_ms), since != 0 && now > since ? now - since : 0, (uint64_t)atomic_load(&io_errors),
      recovered_counter, state < 0 ? "null" : state ? "true" : "false", state == 0 ? mismatch : "");
  /* A send that fails (no route yet, link down) is a lost datagram: the collector sees silence, which is the truth. */
  sendto(socket_fd, text, length, MSG_DONTWAIT, (struct sockaddr *)&settings.collector, sizeof settings.collector);
}

static void send_for_ever(int socket_fd) {
  for (;;) {
    send_state(socket_fd);
    struct pollfd wait = {.fd = tick_event, .events = POLLIN};
    /* A little more than the interval: normally the writer's tick sends, the deadline only when a write hangs. */
    if (poll(&wait, 1, settings.interval_ms + settings.interval_ms / 2 + 1) > 0) {
      eventfd_t ticks;
      eventfd_read(tick_event, &ticks);
    }
  }
}

/* ---- settings ---- */

static void read_collector(const char *text) {
  char host[64];
  int port;
  settings.collector.sin_family = AF_INET;
  if (sscanf(text, "%63[0-9.]:%d", host, &port) == 2 && inet_pton(AF_INET, host, &settings.collector.sin_addr) == 1)
    settings.collector.sin_port = htons(port);
}

static void read_settings(void) {
  static char line[4096];
  int fd = open("/proc/cmdline", O_RDONLY);
  if (fd < 0 || read(fd, line, sizeof line - 1) <= 0) exit(1);
  close(fd);
  for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n")) {
    sscanf(word, "holdfast.vmid=%ld", &settings.vmid);
    sscanf(word, "holdfast.generation=%ld", &settings.generation);
    sscanf(word, "hf.intervalms=%ld", &settings.interval_ms);
    sscanf(word, "hf.blocks=%ld", &settings.blocks);
    if (strncmp(word, "hf.collector=", 13) == 0) read_collector(word + 13);
  }
  if (settings.interval_ms < 1) settings.interval_ms = 1;
  if (settings.blocks < 1) settings.blocks = 1;
}

/* Tells two boots apart. Early in a boot the kernel's pool may not be seeded, so time and the cycle counter are mixed in. */
static void draw_boot_random(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (getrandom(&boot_random, sizeof boot_random, GRND_INSECURE) != sizeof boot_random) boot_random = 0;
  boot_random ^= ((uint64_t)mix(t.tv_nsec) << 32 | mix(t.tv_sec)) + __builtin_ia32_rdtsc();
}

int main(void) {
  read_settings();
  draw_boot_random();
  open_disk("/dev/vda", &data_disk);
  open_disk("/dev/vdb", &counter_disk);
  void *buffer = aligned_alloc(BLOCK_BYTES, READ_BLOCKS * BLOCK_BYTES);
  while (!read_counter(buffer, &recovered_counter)) {
    atomic_fetch_add(&io_errors, 1);
    sleep_ms(RETRY_MS);
  }
  atomic_store(&counter, recovered_counter);
  tick_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  int socket_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  pthread_t thread;
  if (tick_event < 0 || socket_fd < 0 || pthread_create(&thread, NULL, writer, buffer) != 0) {
    say("fatal: cannot start: %s", strerror(errno));
    return 1;
  }
  say("probe started, vmid %ld generation %ld", settings.vmid, settings.generation);
  send_for_ever(socket_fd);
}
