#!/bin/sh
# Law: the first boot only lays the unit that joins; it is done before there is a network, and boots again.
#
# For images of Raspberry Pi OS without cloud-init: the boot partition's cmdline.txt runs it once (see headwater.txt
# there). It makes no user and joins no wireless network: a card that is to do so has no such file.
set -eu

card=/boot/firmware
[ -d "$card/headwater" ] || card=/boot
echo @NODE@ >/etc/hostname
sed -i 's/^127\.0\.1\.1.*/127.0.1.1\t@NODE@/' /etc/hosts
install -m 0644 "$card/headwater/headwater-join.service" /etc/systemd/system/headwater-join.service
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -sf ../headwater-join.service /etc/systemd/system/multi-user.target.wants/headwater-join.service
sed -i 's| systemd\.[^ ]*||g' "$card/cmdline.txt"
rm -f "$card/firstrun.sh"
