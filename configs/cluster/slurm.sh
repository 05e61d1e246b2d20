#!/usr/bin/env bash
# One run on a Slurm cluster whose nodes share this repository, its .venv, the home folder and the run directory:
#   python3.12 -m venv .venv && . .venv/bin/activate && bash requirements/install.sh gpu      # once
#   ray get-auth-token --generate                                  # once; ~/.ray/auth_token, read by all nodes
#   sbatch configs/cluster/slurm.sh configs/full_8gpu.yaml runs/first model.path=/models/mine
# Before time is up, or when the job is preempted, the run stops behind what it has, and is put into the queue again.
#SBATCH --job-name=erpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
config=$1 run_dir=$2
shift 2

export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
# This script runs on the first node. A port and a folder of this job's own, so that two jobs of one node do not meet.
ip=$(hostname -I | awk '{ print $1 }')
address=$ip:$((20000 + SLURM_JOB_ID % 10000))

# Not `ray symmetric-run`: the first SIGTERM ends it, and the driver with it, and its end stops every Ray on the node.
on() { # NODE, then what `ray start` takes
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" "${@:2}" &
}
on "${nodes[0]}" --head --node-ip-address="$ip" --port="${address#*:}" --temp-dir="/tmp/ray-$SLURM_JOB_ID" \
  --dashboard-host=127.0.0.1
for ((tries = 0; tries < 60; tries++)); do
  ray status --address="$address" >/dev/null 2>&1 && break
  sleep 5
done
for node in "${nodes[@]:1}"; do on "$node" --address="$address"; done

# SIGTERM, which Slurm sends to this script alone, goes on to the driver; Ray stays up until that has stopped.
# The driver waits for the other nodes as long as `cluster.wait_s` says.
erpo run "$config" --run-dir "$run_dir" "cluster.address=$address" cluster.wait_s=300 "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
# A signal ends `wait`, not the driver.
while kill -0 "$driver" 2>/dev/null; do
  code=0
  wait "$driver" || code=$?
done
trap '' TERM
case $code in
75 | 143) scontrol requeue "$SLURM_JOB_ID" ;; # interrupted: the same command continues
esac
kill $(jobs -p) 2>/dev/null || true
exit "$code"
