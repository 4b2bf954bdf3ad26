#!/bin/sh
# Managed by slipway.platform.container_network. Edits are undone by the next run.
# Writes, for squid's access lists, this machine's own addresses and the networks it shares with other machines: every
# interface's, but not those of Docker's bridges. A bridge with a default route is no container network.
set -eu
address=$(sed -n 's/^http_port \(.*\):[0-9]*$/\1/p' /etc/slipway/proxy_forwarder/squid.conf)
if test -z "$(ip -o -4 address show to "$address/32")"; then
  bridge=$(ip -o -4 address show dev docker0 | sed 's/.* inet \([0-9.]*\).*/\1/')
  echo "container_network_bridge_address is $address: it needs to be docker0's address, which is $bridge" >&2
  exit 1
fi
ip -o -4 address show | sed 's/.* inet \([0-9.]*\).*/\1/' > "$RUNTIME_DIRECTORY/self"
outside=" $(ip -o -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | tr '\n' ' ') "
ip -o -4 route show scope link | sed -n 's/^\([0-9.]*\/[0-9]*\).* dev \([^ ]*\).*/\1 \2/p' | while read -r network device; do
  case "$outside" in
    *" $device "*) echo "$network" ;;
    *) test -d "/sys/class/net/$device/bridge" || echo "$network" ;;
  esac
done > "$RUNTIME_DIRECTORY/neighbours"
