#!/bin/sh
# What years of NVIDIA's own instructions leave behind. Two keys for one address: apt refuses to work at all.
set -e
gpg --dearmor --yes -o /usr/share/keyrings/nvidia-container-toolkit-keyring.gpg /run/nvidia.asc
cp /usr/share/keyrings/nvidia-container-toolkit-keyring.gpg /etc/apt/trusted.gpg.d/nvidia.gpg
cd /etc/apt/sources.list.d
at=https://nvidia.github.io
echo "deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg] $at/libnvidia-container/stable/deb/\$(ARCH) /" \
  >nvidia-container-toolkit.list
echo "deb [signed-by=/etc/apt/trusted.gpg.d/nvidia.gpg] $at/libnvidia-container/stable/deb/amd64 /" >libnvidia-container.list
{
  echo "deb $at/nvidia-container-runtime/ubuntu18.04/\$(ARCH) /"
  echo "deb $at/nvidia-docker/ubuntu18.04/\$(ARCH) /"
} >nvidia-docker.list
apt-get -q indextargets >/run/apt.log 2>&1 || true
grep -q 'Conflicting values set for option Signed-By' /run/apt.log
touch /run/before-the-check
