#!/bin/sh
# mmdebstrap customize hook: makes the new root a server as its owner would have set it up before he meets Holdfast: a bridge, ssh, a clock
# that follows the network's. What tells one machine from the other (name, address) comes with the kernel's command line.
# $1: the root. The environment names what goes into it: MACHINE_MODULES (folder with spl.ko and zfs.ko), MACHINE_KEY (public ssh key).
set -eu
root=$1
release=$(ls "$root/usr/lib/modules")
systemctl() { command systemctl --root="$root" --quiet "$@"; }

install -d "$root/usr/lib/modules/$release/extra"
install -m 644 "$MACHINE_MODULES/spl.ko" "$MACHINE_MODULES/zfs.ko" "$root/usr/lib/modules/$release/extra/"
chroot "$root" depmod "$release"
echo zfs >"$root/etc/modules-load.d/zfs.conf"
# A server of the lab has little memory; left alone, ZFS would take half of it.
echo 'options zfs zfs_arc_max=268435456' >"$root/etc/modprobe.d/zfs.conf"

cat >"$root/etc/systemd/network/10-br0.netdev" <<'NET'
[NetDev]
Name=br0
Kind=bridge
[Bridge]
STP=no
ForwardDelaySec=0
MulticastSnooping=no
NET
cat >"$root/etc/systemd/network/10-eth0.network" <<'NET'
[Match]
Name=eth0
[Network]
Bridge=br0
LinkLocalAddressing=no
NET
install -d "$root/etc/systemd/timesyncd.conf.d" "$root/etc/systemd/journald.conf.d" "$root/root/.ssh"
printf '[Time]\nNTP=10.77.0.254\nPollIntervalMaxSec=64\n' >"$root/etc/systemd/timesyncd.conf.d/lab.conf"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\n' >"$root/etc/systemd/journald.conf.d/lab.conf"
install -m 600 "$MACHINE_KEY" "$root/root/.ssh/authorized_keys"
printf 'UseDNS no\nPasswordAuthentication no\n' >"$root/etc/ssh/sshd_config.d/lab.conf"
echo '/dev/nvme0n1 / ext4 defaults 0 1' >"$root/etc/fstab"
: >"$root/etc/machine-id"
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/initrd.img"* "$root/boot/initrd"*

systemctl enable systemd-networkd systemd-network-generator systemd-timesyncd ssh
# Debian starts a store of its own when the package is installed; it is another one's business than ours.
systemctl disable etcd
systemctl mask getty@tty1 serial-getty@ttyS0 console-getty e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer \
  e2scrub_all.timer fstrim.timer dpkg-db-backup.timer man-db.timer \
  systemd-pstore.service modprobe@drm.service
# What a first boot would bring up to date is so already.
touch "$root/etc/.updated" "$root/var/.updated"
