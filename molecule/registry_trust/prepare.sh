#!/bin/bash
# A registry for anyone on port 6001 and one that asks for a login on 6002, both with images that exist nowhere
# else; and files that an operator wrote before this collection came.
set -euo pipefail
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
packages=(docker-registry openssl apache2-utils podman skopeo)
apt-cache show docker-cli > /dev/null 2>&1 && packages+=(docker-cli)
apt-get -qq install -y --no-install-recommends "${packages[@]}" > /dev/null
rm /usr/sbin/policy-rc.d

mkdir -p /srv/test
cd /srv/test
name=registry-trust.corp.lab
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj "/CN=Test CA" 2> /dev/null
openssl req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj "/CN=$name" 2> /dev/null
printf 'subjectAltName=DNS:%s\n' "$name" > extensions
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out server.crt \
  2> /dev/null
htpasswd -Bbc users puller 's3"cr:e t%{{ 7 }}€' 2> /dev/null
for port in 6001 6002; do
  cat > "registry-$port.yml" << YAML
version: 0.1
storage: {filesystem: {rootdirectory: /srv/test/data}}
http: {addr: ":$port", tls: {certificate: /srv/test/server.crt, key: /srv/test/server.key}}
YAML
  test "$port" = 6001 || echo 'auth: {htpasswd: {realm: test, path: /srv/test/users}}' >> "registry-$port.yml"
  cat > "/etc/systemd/system/test-registry-$port.service" << UNIT
[Service]
ExecStart=/usr/bin/docker-registry serve /srv/test/registry-$port.yml
[Install]
WantedBy=multi-user.target
UNIT
done
mkdir -p /etc/containerd
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nrestrict_oom_score_adj = true\n' > /etc/containerd/config.toml
printf '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/containerd/certs.d"\n' \
  >> /etc/containerd/config.toml
systemctl daemon-reload
systemctl enable -q --now test-registry-6001 test-registry-6002
systemctl enable -q --now containerd docker
systemctl restart containerd

echo hello > hello.txt
tar -c hello.txt | docker import - hello:1 > /dev/null
curl -sf --retry 20 --retry-connrefused --retry-delay 1 --cacert ca.crt "https://$name:6001/v2/" > /dev/null
mkdir -p trust
cp ca.crt trust/
# greeting is the same again: Podman knows an alias for hello.
for image in hello greeting; do
  skopeo copy -q --dest-cert-dir trust docker-daemon:hello:1 "docker://$name:6001/library/$image:1"
done
docker image rm hello:1 > /dev/null

# What an operator had: a hosts.toml by hand for the same upstream, and a login elsewhere.
mkdir -p /etc/containerd/certs.d/docker.io /root/.docker
echo 'server = "https://registry-1.docker.io" # by hand' > /etc/containerd/certs.d/docker.io/hosts.toml
printf '{\n\t"auths": {\n\t\t"elsewhere.corp.lab": {\n\t\t\t"auth": "b3BlcmF0b3I6b3du"\n\t\t}\n\t}\n}\n' > /root/.docker/config.json
chmod 600 /root/.docker/config.json
