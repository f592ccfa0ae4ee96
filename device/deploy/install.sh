#!/bin/sh
# Law: what is there is left as it is, or brought to what it should be; running this twice is running it once.
#
# Installs the Headwater device agent on a Debian-like board (Raspberry Pi OS, 64 bit):
#   /opt/headwater/venv               what the agent needs         /etc/headwater/device.toml   settings, yours
#   /opt/headwater/versions/current   the agent itself             /var/lib/headwater           what outlives a reboot
#   /opt/headwater/launcher.py        starts it, and goes back     headwater-device.service     keeps it running
# All that it lays comes out of the wheel. Exit codes: 0 done, 1 a step failed (its own words are above), 2 not here.
# The agent's user may change its versions and its state: root reads nothing from there, and writes there as that user.
set -eu
# Nor is root's Python led by what lies in the folder that this is called in.
export PYTHONSAFEPATH=1

prefix=/opt/headwater
settings=/etc/headwater
state=/var/lib/headwater
unit=/etc/systemd/system/headwater-device.service
command=/usr/local/bin/headwater-device
user=headwater

usage() {
  cat <<'USAGE'
usage: sudo sh install.sh --wheel headwater-VERSION-py3-none-any.whl [options]
       sudo sh install.sh --version VERSION [options]      the wheel comes from the package index
       sudo sh install.sh --uninstall [--purge]
  --wheelhouse DIR     take every package from this folder, none from a network
  --extra-index URL    look for packages there too
  --extras LIST        parts beside the agent: trust, update, metrics, parquet (default: trust,update)
  --config FILE        the device.toml, where there is none yet
  --ca FILE            certificate of the fleet's authority
  --token FILE         one-time enrolment token; it is moved, so that no copy stays
  --no-start           lay everything, start nothing
  --purge              with --uninstall: settings, state and user too
USAGE
}

say() { printf '%s\n' "install: $*"; }
refuse() { printf '%s\n' "install: $*" >&2; exit 2; }
there() { command -v "$1" >/dev/null 2>&1; }
running_systemd() { [ -d /run/systemd/system ] && there systemctl; }
as_user() { runuser -u "$user" -- "$@"; }

wheel='' version='' wheelhouse='' extra_index='' extras=trust,update config='' ca='' token=''
start=yes uninstall=no purge=no
while [ $# -gt 0 ]; do
  case $1 in
    --wheel | --version | --wheelhouse | --extra-index | --extras | --config | --ca | --token)
      [ $# -ge 2 ] || refuse "$1: missing value; see --help"
      eval "$(printf '%s' "${1#--}" | tr - _)=\$2"
      shift
      ;;
    --no-start) start=no ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; refuse "$1: no such option" ;;
  esac
  shift
done

remove() {
  if running_systemd; then
    systemctl disable --now headwater-device.service >/dev/null 2>&1 || :
  fi
  rm -rf "$unit" "$unit.d" "$prefix" "$command"
  if running_systemd; then systemctl daemon-reload; fi
  say "the agent is gone"
  if [ "$purge" = yes ]; then
    rm -rf "$settings" "$state"
    if getent passwd "$user" >/dev/null; then userdel "$user"; fi
    say "settings, state and user are gone too"
  else
    say "kept: $settings and $state; --purge removes them"
  fi
}

fits() {
  there python3 || refuse "python3: not found; apt-get install python3"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "python3: $(python3 -V) is too old; Headwater needs 3.11 (Raspberry Pi OS of 2023-10 or newer)"
  python3 -c 'import struct, sys; sys.exit(struct.calcsize("P") != 8)' ||
    refuse "this system is 32 bit, for which there is no onnxruntime; flash the 64-bit Raspberry Pi OS (every board" \
      "from the Pi 3 and the Zero 2 W on runs it)"
  [ "$wheel$version" ] || { usage >&2; refuse "--wheel: missing; say which wheel, or which --version"; }
  for file in "$wheel" "$config" "$ca" "$token"; do
    [ -z "$file" ] || [ -r "$file" ] || refuse "$file: no such file, or not readable"
  done
}

make_user() {
  getent passwd "$user" >/dev/null && return
  useradd --system --user-group --home-dir "$state" --no-create-home --shell /usr/sbin/nologin "$user"
  say "made user $user"
}

make_folders() {
  install -d -m 0755 "$prefix"
  install -d -m 0755 -o "$user" -g "$user" "$prefix/versions"
  install -d -m 0750 -o root -g "$user" "$settings"
  install -d -m 0700 -o "$user" -g "$user" "$state"
}

pip() {
  # A board's own settings for pip hold; these stand over them.
  set -- --disable-pip-version-check --no-input "$@"
  if [ "$extra_index" ]; then export PIP_EXTRA_INDEX_URL="$extra_index"; fi
  if [ "$wheelhouse" ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS="$wheelhouse"; fi
  "$prefix/venv/bin/python" -m pip "$@"
}

make_venv() {
  if [ -x "$prefix/venv/bin/python" ] && "$prefix/venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  rm -rf "$prefix/venv"
  if ! python3 -c 'import ensurepip' 2>/dev/null; then
    pip_wheel=$(ls "${wheelhouse:-/nowhere}"/pip-*.whl 2>/dev/null | head -n 1)
    if [ "$pip_wheel" ]; then
      python3 -m venv --without-pip "$prefix/venv"
      "$prefix/venv/bin/python" "$pip_wheel/pip" install --quiet --no-index "$pip_wheel"
      say "made $prefix/venv, with the wheelhouse's pip"
      return
    fi
    there apt-get || refuse "python3: its venv module is missing; install it by your package manager"
    say "python3's venv module is missing: installing it"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >/dev/null
  fi
  python3 -m venv "$prefix/venv"
  say "made $prefix/venv"
}

get_wheel() {
  if [ -z "$wheel" ]; then
    pip download --quiet --no-deps --dest "$work" "headwater==$version"
    wheel=$(ls "$work"/headwater-*.whl)
  fi
  wheel=$(readlink -f "$wheel")
  name=${wheel##*/}
  version=$(printf '%s' "$name" | cut -d- -f2)
  case $name in headwater-*-py3-none-any.whl) ;; *) refuse "$name: not a wheel of Headwater" ;; esac
}

get_packages() {
  say "installing what $version needs (device, $extras)"
  pip install --quiet "headwater[device,$extras] @ file://$wheel"
  # The agent itself runs from versions/, where it can be changed and changed back.
  pip uninstall --quiet --yes headwater
}

lay_version() {
  laid=$work/laid
  python3 -m zipfile -e "$wheel" "$laid"
  "$prefix/venv/bin/python" -m compileall -q -s "$laid" -p "$prefix/versions/$version" "$laid" >/dev/null
  chmod -R u=rwX,go=rX "$laid"
  tar -C "$laid" -cf "$work/laid.tar" .
  before=$(readlink "$prefix/versions/current" || :)
  as_user sh -euc '
    umask 022
    cd "$1"
    rm -rf ".$2.new" ".$2.old"
    mkdir ".$2.new"
    tar -C ".$2.new" -xf -
    if [ -d "$2" ]; then mv "$2" ".$2.old"; fi
    mv -T ".$2.new" "$2"
    rm -rf ".$2.old"
    point() { ln -sfn "$2" ".$1.new"; mv -T ".$1.new" "$1"; }
    point current "$2"
    if [ "$3" ] && [ "$3" != "$2" ]; then point previous "$3"; fi
  ' - "$prefix/versions" "$version" "$before" <"$work/laid.tar"
  deploy=$laid/headwater/device/deploy
  install -m 0644 -o root -g root "$laid/headwater/device/launcher.py" "$prefix/launcher.py"
  say "laid version $version${before:+ (before: $before)}"
}

lay_command() {
  cat >"$command" <<COMMAND
#!/bin/sh
# What the agent's user may change is not root's to run.
if [ "\$(id -u)" = 0 ]; then exec runuser -u $user -- "\$0" "\$@"; fi
PYTHONPATH=$prefix/versions/current exec $prefix/venv/bin/python -P -m headwater.device "\$@"
COMMAND
  chmod 0755 "$command"
}

lay_settings() {
  if [ "$ca" ]; then install -m 0644 -o root -g "$user" "$ca" "$settings/ca.pem"; fi
  if [ "$token" ]; then
    as_user sh -euc 'umask 077; cat >"$1.new"; mv -T "$1.new" "$1"' - "$state/enrolment-token" <"$token"
    rm -f "$token"
  fi
  if [ -e "$settings/device.toml" ]; then
    say "kept $settings/device.toml"
    return
  fi
  install -m 0640 -o root -g "$user" "${config:-$deploy/device.toml}" "$settings/device.toml"
  say "laid $settings/device.toml"
  if [ -z "$config" ]; then
    start=no
    say "it is a beginning: name the node, its broker and its data there, then: systemctl start headwater-device"
  fi
}

lay_unit() {
  install -d -m 0755 "${unit%/*}"
  install -m 0644 -o root -g root "$deploy/headwater-device.service" "$unit"
  if ! running_systemd; then
    say "no systemd runs here; by hand: runuser -u $user -- $prefix/venv/bin/python -P $prefix/launcher.py" \
      "$prefix/versions -m headwater.device $settings/device.toml"
    return
  fi
  # Longer and longer waits between restarts are known to systemd from 254 on.
  if [ "$(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')" -ge 254 ]; then
    install -d -m 0755 "$unit.d"
    printf '[Service]\nRestartSteps=6\nRestartMaxDelaySec=5min\n' >"$unit.d/10-patience.conf"
  fi
  systemctl daemon-reload
  systemctl --quiet enable headwater-device.service
  if [ "$start" = no ]; then return; fi
  systemctl --no-block restart headwater-device.service
  say "started; how it is: systemctl status headwater-device"
}

[ "$(id -u)" = 0 ] || refuse "this needs root: sudo sh install.sh …"
if [ "$uninstall" = yes ]; then
  remove
  exit 0
fi
fits
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make_user
make_folders
make_venv
get_wheel
get_packages
lay_version
lay_command
lay_settings
lay_unit
say "done; what may stand in its way: sudo -u $user headwater-device doctor $settings/device.toml"
