#!/bin/busybox sh
# Init of the guest with an agent: drivers, the disk, QEMU's own guest agent on the second serial port, then numbers written one after the other.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /run /data
mount -t tmpfs run /run
while read -r module; do insmod "/modules/$module"; done </modules/order
until mount -t ext4 /dev/vda /data; do sleep 0.1; done
/bin/qemu-ga -m isa-serial -p /dev/ttyS1 -t /run -f /run/qemu-ga.pid -l /run/qemu-ga.log &
number=0
while :; do
  number=$((number + 1))
  echo "$number" >"/data/number-$((number % 100))"
  echo "wrote $number"
  sleep 0.05
done
