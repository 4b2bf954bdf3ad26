#!/bin/bash
# Docker, containerd with CRI, and Skopeo, as an operator may have them.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
packages=(skopeo)
apt-cache show docker-cli > /dev/null 2>&1 && packages+=(docker-cli)
apt-get -qq install -y --no-install-recommends "${packages[@]}" > /dev/null
mkdir -p /etc/containerd
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nrestrict_oom_score_adj = true\n' > /etc/containerd/config.toml
printf '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n' \
  >> /etc/containerd/config.toml
systemctl enable -q --now containerd docker
systemctl restart containerd
