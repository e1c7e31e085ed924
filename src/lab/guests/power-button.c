/*
 * Answers the ACPI power button, which is how Holdfast asks a guest to stop. Runs /bin/on-power-button when there is one
 * (a database wants to be told), then syncs and switches the machine off.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/reboot.h>
#include <unistd.h>

#define DEVICES 8

static int open_devices(struct pollfd *devices) {
  int count = 0;
  for (int i = 0; i < DEVICES; i++) {
    char path[32];
    snprintf(path, sizeof path, "/dev/input/event%d", i);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) devices[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
  }
  return count;
}

int main(void) {
  struct pollfd devices[DEVICES];
  int count = open_devices(devices);
  if (count == 0) {
    fprintf(stderr, "holdfast-guest: no power button found\n");
    return 1;
  }
  for (;;) {
    if (poll(devices, count, -1) < 0) continue;
    for (int i = 0; i < count; i++) {
      struct input_event event;
      if (!(devices[i].revents & POLLIN) || read(devices[i].fd, &event, sizeof event) != sizeof event) continue;
      if (event.type != EV_KEY || event.code != KEY_POWER || event.value != 1) continue;
      printf("holdfast-guest: power button\n");
      fflush(stdout);
      if (access("/bin/on-power-button", X_OK) == 0 && system("/bin/on-power-button") != 0)
        fprintf(stderr, "holdfast-guest: on-power-button failed\n");
      sync();
      reboot(RB_POWER_OFF);
    }
  }
}
