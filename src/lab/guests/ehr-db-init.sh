#!/bin/busybox sh
# Init of the database guest. Everything it runs is busybox (whose shell prefers its own commands to those on the disk) or
# PostgreSQL itself: on an emulated CPU each program started costs a noticeable part of the time until the database answers.
export PATH=/bin:/usr/bin:/sbin
mark() { read -r up _ </proc/uptime; echo "holdfast-guest: $up s: $*"; }
server=/usr/lib/postgresql/15/bin/postgres
data=/var/lib/postgresql/15/main

mount -t sysfs sys /sys
mount -t tmpfs run /run
mkdir -p /dev/shm /run/postgresql
mount -t tmpfs shm /dev/shm
chown postgres:postgres /run/postgresql

read -r words </proc/cmdline
for word in $words; do
  case $word in hf.ip=*) address=${word#hf.ip=} ;; esac
done
ip link set lo up
if [ -n "$address" ]; then
  ip addr add "$address" dev eth0
  ip link set eth0 up
  mark network up
fi
power-button &

# After a power cut the pid file is left over and the number in it may belong to anybody now; nothing of the server runs yet.
rm -f "$data/postmaster.pid"

# The server is run again when it ends by itself. It tells its progress on its error stream; the marks follow it.
while :; do
  mark database starting
  /usr/bin/setpriv --reuid=postgres --regid=postgres --init-groups "$server" -D "$data" 2>&1 | while read -r line; do
    echo "$line"
    case $line in *"ready to accept connections"*) mark database answering ;; esac
  done
  mark database ended
  sleep 1
done
