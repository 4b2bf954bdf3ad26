#!/bin/sh
# Part of the build, on the model's image: what has to be there, and what non-root users of any number need.
set -eu

fail() {
  echo "prepare: $1" >&2
  exit 1
}

command -v bash >/dev/null || fail "the model image has no bash, which Spark's programs are written in"
/opt/java/bin/java -version 2>/dev/null ||
  fail "Java does not run on the model image: it needs a base image that is not newer than the model's system"

cd /opt/slipway
chmod 0755 decommission.sh entrypoint.sh gpus.sh tini
chmod 0644 libnss_wrapper.so
rm prepare.sh
# Where Spark looks for it (spark.kubernetes.decommission.script).
ln -sf /opt/slipway/decommission.sh /opt/decom.sh

# One name for py4j, whatever its version.
ln -s "$(basename /opt/spark/python/lib/py4j-*-src.zip)" /opt/spark/python/lib/py4j.zip
mkdir -p /etc/hadoop/conf /opt/spark/conf
# Writable for every user, as /tmp is: a pod may run under any number and group.
mkdir -m 1777 /opt/spark/work-dir

if ! cut -d: -f3 /etc/passwd | grep -qx 185; then
  name=spark
  if grep -q '^spark:' /etc/passwd; then
    name=spark-185
  fi
  echo "$name:x:185:0:Spark:/opt/spark/work-dir:/usr/sbin/nologin" >>/etc/passwd
fi
