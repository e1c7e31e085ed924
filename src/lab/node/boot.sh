#!/bin/sh
# First process of a lab node: its "kernel" and the reaper of its orphans. Runs as PID 1 of fresh mount, UTS and PID namespaces
# inside the node's network namespace and control group.
#
#   mounts of the node's own folders -> its own /dev, /proc, /sys -> host name -> bridge br0 -> init (services) -> wait, reaping
#
# Arguments: NAME ADDRESS/PREFIX MAC ETC DATA RUN WATCHDOG BOOT-ID STAGING NODE INIT SERVICES INIT-SOCKET
set -eu
name=$1 address=$2 mac=$3 etc=$4 data=$5 run=$6 watchdog=$7 boot_id=$8 staging=$9
shift 9
node=$1 init=$2 services=$3 socket=$4

# The unified hierarchy must stay visible under a new /sys, at the same path as outside.
groups=$(while read -r _ at type _; do [ "$type" = cgroup2 ] && echo "$at" && break; done </proc/mounts)
mkdir -p "$staging/groups" "$staging/dev"
mount --bind "$groups" "$staging/groups"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -d "$groups" ] || { mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup; mkdir -p "$groups"; }
mount --move "$staging/groups" "$groups"

mount --bind "$etc" /etc/holdfast
mount --bind "$data" /var/lib/holdfast
mount --bind "$run" /run/holdfast
mount --bind "$boot_id" /proc/sys/kernel/random/boot_id

# A /dev of its own, because only here there is a watchdog. It becomes /dev whole, by one move.
dev=$staging/dev
mount -t tmpfs -o mode=755 tmpfs "$dev"
mkdir "$dev/net" "$dev/pts" "$dev/shm" "$dev/watchdog0.d"
for device in null zero full random urandom tty kvm; do
  [ -e "/dev/$device" ] || continue
  : >"$dev/$device"
  mount --bind "/dev/$device" "$dev/$device"
done
# An unprivileged QEMU opens its own tap: the device is open to all, as udev makes it; which tap one may open the kernel decides.
mknod -m 666 "$dev/net/tun" c 10 200
: >"$dev/watchdog0"
mount --bind "$watchdog" "$dev/watchdog0"
mount --bind "$watchdog.d" "$dev/watchdog0.d"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$dev/pts"
mount -t tmpfs tmpfs "$dev/shm"
ln -s pts/ptmx "$dev/ptmx"
ln -s /proc/self/fd "$dev/fd"
ln -s fd/0 "$dev/stdin"
ln -s fd/1 "$dev/stdout"
ln -s fd/2 "$dev/stderr"
mount --move "$dev" /dev

hostname "$name"

# The lab has no IPv6; and bridged frames are not for any packet filter of the host.
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || :
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 2>/dev/null || :
echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || :
ip -batch - <<COMMANDS
link set lo up
link add br0 address $mac type bridge forward_delay 0 mcast_snooping 0
link set uplink master br0
link set uplink up
link set br0 up
address add $address dev br0
COMMANDS

"$node" "$init" --services "$services" --socket "$socket" &
# `wait` takes every child that ends, known or not: processes whose parent died leave no zombies here. When init itself ends, so
# does this script, and with it the whole node: a machine whose kernel has panicked.
wait $!
