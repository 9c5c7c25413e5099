#!/usr/bin/env bash
# A private Slurm cluster on this machine, to try recipes and tests with: nodes are daemons, nothing is written outside
# its directory, and it needs no systemd, cgroups or extra rights. Requires Debian's slurm-wlm and munge.
#
#     private_slurm.sh start DIR [NODES]      # prints the required setting of SLURM_CONF
#     private_slurm.sh stop DIR
#
# Each node claims to have 2 processors, 64 GB and 2 GPUs, so that the recipes' requests are granted; nothing is bound
# or measured. The partition "main" preempts jobs of "spare", which are queued again.
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 1
}

[ $# -ge 2 ] || fail "give start DIR [NODES] or stop DIR"
action=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
nodes=${3:-1}
PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$dir/slurm.conf

configure() {
  local ports
  mapfile -t ports < <(python3 - $((nodes + 1)) <<'PORTS'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets), sep="\n")
PORTS
  )
  rm -rf "$dir/state" # of an earlier cluster
  mkdir -p "$dir/state" "$dir/log"
  cat > "$dir/slurm.conf" <<CONF
ClusterName=private
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobRequeue=1
KillWait=20
ReturnToService=2
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES PriorityTier=2
PartitionName=spare Nodes=ALL PriorityTier=1
CONF
  : > "$dir/gres.conf"
  local index
  for ((index = 1; index <= nodes; index++)); do
    echo "NodeName=node$index NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=${ports[index]} CPUs=2" \
      "RealMemory=64000 Gres=gpu:2" >> "$dir/slurm.conf"
    printf 'NodeName=%s Name=gpu File=%s\n' "node$index" /dev/null "node$index" /dev/zero >> "$dir/gres.conf"
  done
}

start() {
  local program index
  for program in munged slurmctld slurmd sbatch; do
    type "$program" > /dev/null 2>&1 || fail "$program is not installed; on Debian: apt-get install slurm-wlm munge"
  done
  [ ! -e "$dir/slurmctld.pid" ] || fail "a cluster runs in $dir already; stop it, or name another directory"
  configure
  (umask 077 && head -c 1024 /dev/urandom > "$dir/munge.key")
  munged --force --key-file "$dir/munge.key" --socket "$dir/munge.socket" --pid-file "$dir/munge.pid" \
    --log-file "$dir/log/munged.log" --seed-file "$dir/munge.seed" 2>> "$dir/log/start.log"
  slurmctld 2>> "$dir/log/start.log"
  for ((index = 1; index <= nodes; index++)); do
    mkdir -p "$dir/spool.node$index"
    slurmd -N "node$index" 2>> "$dir/log/start.log"
  done
  for ((index = 0; index < 150; index++)); do
    if [ "$(sinfo --noheader --Node --partition main --format %t 2> /dev/null | grep -c '^idle$')" -eq "$nodes" ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.2
  done
  tail -n 5 "$dir/log/"*.log >&2
  stop
  fail "Slurm did not start; see $dir/log"
}

# End the jobs first, then the daemons, all by their recorded process ids.
stop() {
  local file
  scancel --user "$(id -un)" 2> /dev/null || true
  for file in "$dir"/slurmd.*.pid "$dir/slurmctld.pid" "$dir/munge.pid"; do
    [ -e "$file" ] || continue
    kill "$(cat "$file")" 2> /dev/null || true
    while kill -0 "$(cat "$file" 2> /dev/null)" 2> /dev/null; do sleep 0.1; done
    rm -f "$file"
  done
}

case $action in
  start | stop) "$action" ;;
  *) fail "'$action' is neither start nor stop" ;;
esac
