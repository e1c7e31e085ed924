#!/bin/busybox sh
# Before the guest switches off: a fast shutdown of the database, then the root disk read-only.
read -r pid </var/lib/postgresql/15/main/postmaster.pid && kill -INT "$pid"
tries=0
while [ -e /var/lib/postgresql/15/main/postmaster.pid ] && [ "$tries" -lt 200 ]; do
  tries=$((tries + 1))
  /bin/busybox sleep 0.1
done
/bin/busybox mount -o remount,ro /
