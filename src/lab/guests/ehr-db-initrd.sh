#!/bin/busybox sh
# First stage of the database guest: drivers, then over to its root disk (ext4 replays its own journal at mount).
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
read -r up _ </proc/uptime
echo "holdfast-guest: $up s: kernel up"
while read -r module; do insmod "/modules/$module"; done </modules/order
tries=0
until mount -t ext4 -o noatime /dev/vda /newroot; do
  tries=$((tries + 1))
  if [ "$tries" -ge 50 ]; then
    echo "holdfast-guest: fatal: the root disk cannot be mounted"
    exit 1
  fi
  sleep 0.1
done
mount -o move /dev /newroot/dev
mount -o move /proc /newroot/proc
exec switch_root /newroot /sbin/holdfast-init
