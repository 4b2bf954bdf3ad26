#!/bin/sh
# A machine as many are found: CRI switched off as Docker's package ships it, mirrors and credentials in config.toml.
set -e
mkdir -p /root/img && cd /root/img
mkdir -p usr/bin usr/lib64 usr/lib/x86_64-linux-gnu
ln -sfn usr/bin bin
ln -sfn usr/lib lib
ln -sfn usr/lib64 lib64
cp -L /bin/bash /bin/sleep usr/bin/
ldd /bin/bash /bin/sleep | grep -o '/lib[^ ]*' | sort -u | xargs -I{} cp -L {} usr/lib/x86_64-linux-gnu/
cp -L /lib64/ld-linux-x86-64.so.2 usr/lib64/
docker inspect sleeper >/dev/null 2>&1 || {
  tar -c . | docker import - tiny:1
  docker run -d --name sleeper tiny:1 sleep infinity
}
cat >/etc/containerd/config.toml <<'TOML'
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
oom_score = -1
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]
  endpoint = ["http://127.0.0.1:5999"]
[plugins."io.containerd.grpc.v1.cri".registry.configs."127.0.0.1:5999".auth]
  username = "puller"
  password = "old-s3cret"
TOML
systemctl restart containerd
