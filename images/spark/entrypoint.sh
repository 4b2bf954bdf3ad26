#!/bin/bash
# Started by tini, becomes what was asked for, so that signals reach it and its status is the container's:
#   driver ARGUMENT…   spark-submit in client mode, which is how Spark on Kubernetes starts a driver
#   executor           an executor of the driver that the environment names
#   COMMAND …          anything else: spark-submit, python3, spark-class org.apache.spark.deploy.history.HistoryServer
set -euo pipefail

SPARK_HOME=${SPARK_HOME:-/opt/spark}
JAVA_HOME=${JAVA_HOME:-/opt/java}
NSS_WRAPPER=${SLIPWAY_NSS_WRAPPER:-/opt/slipway/libnss_wrapper.so}
export SPARK_HOME JAVA_HOME

say() {
  echo "entrypoint: $1" >&2
}

fail() {
  say "$1"
  exit 64
}

# Hadoop's login fails for a user without a name. /etc/passwd stays read-only: a library shows another one instead.
name_user() {
  local passwd
  if getent passwd "$(id -u)" >/dev/null; then
    return
  fi
  if ! passwd=$(mktemp "${TMPDIR:-/tmp}/passwd.XXXXXX" 2>/dev/null); then
    say "user $(id -u) has no name, and ${TMPDIR:-/tmp} cannot be written: Hadoop's login needs one of both"
    return
  fi
  {
    grep -v '^spark:' /etc/passwd || true
    echo "spark:x:$(id -u):$(id -g):Spark:$SPARK_HOME/work-dir:/usr/sbin/nologin"
  } >"$passwd"
  export LD_PRELOAD="$NSS_WRAPPER${LD_PRELOAD:+:$LD_PRELOAD}" NSS_WRAPPER_PASSWD=$passwd NSS_WRAPPER_GROUP=/etc/group
}

# The files of mounted directories, in the working directory. Kubernetes keeps what it mounts in entries named "..".
copy_files() {
  local directory
  for directory in "${SPARK_MOUNTED_FILES_DIR:-}" "${SPARK_MOUNTED_FILES_FROM_SECRET_DIR:-}"; do
    if [ -z "$directory" ]; then
      continue
    fi
    [ -d "$directory" ] || fail "the directory $directory with files is not mounted"
    find "$directory/" -mindepth 1 -maxdepth 1 ! -name '..*' -exec cp -RL --target-directory=. {} +
  done
}

# SPARK_JAVA_OPT_0, _1 … _10, in the order of their numbers, to the array java_options.
read_java_options() {
  local name
  java_options=()
  while read -r name; do
    if [ -n "${!name}" ]; then
      java_options+=("${!name}")
    fi
  done < <(compgen -A export SPARK_JAVA_OPT_ | sort --version-sort)
}

# Java's own syntax for JDK_JAVA_OPTIONS: words, in quotes where they hold spaces.
quoted() {
  case $1 in
    *\"*) echo "'$1'" ;;
    *) echo "\"$1\"" ;;
  esac
}

joined() {
  local part all=
  for part in "$@"; do
    all+=${part:+${all:+:}$part}
  done
  echo "$all"
}

run_driver() {
  local option
  # Both add to what the application asks for; --driver-java-options and --driver-class-path would replace it.
  for option in "${java_options[@]}"; do
    JDK_JAVA_OPTIONS="${JDK_JAVA_OPTIONS:+$JDK_JAVA_OPTIONS }$(quoted "$option")"
    export JDK_JAVA_OPTIONS
  done
  SPARK_DIST_CLASSPATH=$(joined "${SPARK_MOUNTED_CLASSPATH:-}" "${SPARK_EXTRA_CLASSPATH:-}" "${SPARK_DIST_CLASSPATH:-}")
  export SPARK_DIST_CLASSPATH
  if [ -n "${SPARK_DRIVER_BIND_ADDRESS:-}" ]; then
    set -- --conf "spark.driver.bindAddress=$SPARK_DRIVER_BIND_ADDRESS" \
      --conf "spark.executorEnv.SPARK_DRIVER_POD_IP=$SPARK_DRIVER_BIND_ADDRESS" "$@"
  fi
  exec "$SPARK_HOME/bin/spark-submit" --deploy-mode client "$@"
}

run_executor() {
  local name classpath
  for name in SPARK_DRIVER_URL SPARK_EXECUTOR_ID SPARK_EXECUTOR_CORES SPARK_EXECUTOR_MEMORY SPARK_APPLICATION_ID \
    SPARK_EXECUTOR_POD_IP; do
    [ -n "${!name:-}" ] || fail "$name is not set: an executor is started by a driver, which sets it"
  done
  classpath=$(joined "${SPARK_CONF_DIR:-$SPARK_HOME/conf}" "${SPARK_MOUNTED_CLASSPATH:-}" "${SPARK_EXTRA_CLASSPATH:-}" \
    "${SPARK_CLASSPATH:-}" "$SPARK_HOME/jars/*" "${HADOOP_CONF_DIR:-}" "${SPARK_DIST_CLASSPATH:-}" "$PWD")
  exec "$JAVA_HOME/bin/java" "${java_options[@]}" \
    "-Xms$SPARK_EXECUTOR_MEMORY" "-Xmx$SPARK_EXECUTOR_MEMORY" -cp "$classpath" \
    org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend \
    --driver-url "$SPARK_DRIVER_URL" \
    --executor-id "$SPARK_EXECUTOR_ID" \
    --cores "$SPARK_EXECUTOR_CORES" \
    --app-id "$SPARK_APPLICATION_ID" \
    --hostname "$SPARK_EXECUTOR_POD_IP" \
    --resourceProfileId "${SPARK_RESOURCE_PROFILE_ID:-0}" \
    ${SPARK_EXECUTOR_POD_NAME:+--podName "$SPARK_EXECUTOR_POD_NAME"}
}

[ $# -gt 0 ] || fail "nothing to run: it needs driver, executor, or a command with its arguments"
name_user
case $1 in
  driver)
    shift
    copy_files
    read_java_options
    run_driver "$@"
    ;;
  executor)
    copy_files
    read_java_options
    run_executor
    ;;
  *)
    exec "$@"
    ;;
esac
