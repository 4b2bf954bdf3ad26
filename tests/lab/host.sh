#!/usr/bin/env bash
# Makes a Debian host able to run the lab: packages that are missing, and dockerd where none answers.
set -euo pipefail

# Debian's client: another one first on PATH may not speak to Debian's dockerd.
docker=/usr/bin/docker
log=/var/log/slipway-dockerd.log

say() { printf '    %s\n' "$*"; }

fail() {
  echo "setup: $*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "$1 needs root: run as root or install sudo."
  fi
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

missing_packages() {
  local package
  for package in mmdebstrap debian-archive-keyring python3-venv openssh-client ca-certificates git make procps; do
    installed "$package" || echo "$package"
  done
  # Docker's own packages do as well.
  command -v dockerd >/dev/null || echo docker.io
  command -v iptables >/dev/null || [ -x /usr/sbin/iptables ] || echo iptables
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} = 0 ]; then
    say "packages: all there"
    return
  fi
  command -v apt-get >/dev/null || fail "these are missing and there is no apt-get: ${missing[*]}"
  local start=$SECONDS
  say "packages: installing ${missing[*]}"
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
  # Debian 13 has the client in a package of its own.
  [ -x "$docker" ] || as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install docker-cli >/dev/null
  say "packages: done in $((SECONDS - start)) s"
}

answers() { as_root "$docker" info >/dev/null 2>&1; }

# A dockerd that was killed leaves its pid file behind, and a new one takes the number for a running dockerd.
remove_stale_pid_files() {
  local file pid
  for file in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
    [ -e "$file" ] || continue
    pid=$(as_root cat "$file")
    # The program, not the name: a process that is dead but not yet reaped has lost its program and kept its name.
    case "$(as_root readlink "/proc/$pid/exe")" in
      */dockerd | */containerd) ;;
      *) as_root rm -f "$file" ;;
    esac
  done
}

start_dockerd() {
  local start=$SECONDS
  if answers; then
    say "dockerd: already answers"
    return
  fi
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker
  else
    remove_stale_pid_files
    # shellcheck disable=SC2016  # the inner shell expands it
    as_root sh -c 'PATH=$PATH:/usr/sbin:/sbin setsid nohup dockerd >>"$1" 2>&1 </dev/null &' sh "$log"
  fi
  until answers; do
    if [ $((SECONDS - start)) -gt 60 ]; then
      fail "dockerd does not answer after 60 s: see $log or 'journalctl -u docker'."
    fi
    sleep 0.5
  done
  say "dockerd: answers after $((SECONDS - start)) s"
}

# Each machine's systemd, container runtime and kubelet take inotify instances of one and the same root, and the kernel's
# default of 128 ends with some five machines: units of systemd's kind `path` fail first (inotify(7)).
raise_inotify_limit() {
  local instances=/proc/sys/fs/inotify/max_user_instances wanted=1024
  [ "$(cat "$instances")" -lt "$wanted" ] || return 0
  if as_root sh -c "echo $wanted >$instances"; then
    say "inotify instances: raised to $wanted until the next boot of this host"
  fi
}

install_packages
raise_inotify_limit
start_dockerd
"$docker" info >/dev/null 2>&1 ||
  fail "$(id -un) may not talk to dockerd: 'sudo usermod -aG docker $(id -un)', then log in again."
