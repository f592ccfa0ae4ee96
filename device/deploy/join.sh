#!/bin/sh
# Law: what is on the card becomes an installed agent, and no secret stays on the card.
#
# Run as root on the board, by headwater-join.service; tried again until it comes to its end.
set -eu

card=$(dirname "$(readlink -f "$0")")
set -- --config "$card/device.toml"
if [ -e "$card/wheel" ]; then
  set -- "$@" --wheel "$(ls "$card"/wheel/headwater-*.whl)"
else
  set -- "$@" --version "$(cat "$card/version")"
fi
if [ -d "$card/wheelhouse" ]; then set -- "$@" --wheelhouse "$card/wheelhouse"; fi
if [ -e "$card/ca.pem" ]; then set -- "$@" --ca "$card/ca.pem"; fi
if [ -e "$card/token" ]; then set -- "$@" --token "$card/token"; fi
sh "$card/install.sh" "$@"
rm -rf "$card"
systemctl --quiet disable headwater-join.service
rm -f /etc/systemd/system/headwater-join.service
