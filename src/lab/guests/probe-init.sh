#!/bin/busybox sh
# Init of the probe guest: drivers, network, then the probe itself as process 1.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mark() { read -r up _ </proc/uptime; echo "holdfast-guest: $up s: $*"; }
mark kernel up

while read -r module; do insmod "/modules/$module"; done </modules/order

for word in $(cat /proc/cmdline); do
  case $word in hf.ip=*) address=${word#hf.ip=} ;; esac
done
ip link set lo up
if [ -n "$address" ]; then
  ip addr add "$address" dev eth0
  ip link set eth0 up
  mark network up
fi

/bin/power-button &
exec /bin/probe
