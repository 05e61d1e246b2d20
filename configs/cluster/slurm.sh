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
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
config=$1 run_dir=$2
shift 2

export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A port of this job's own, so that two jobs of one node do not meet.
address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }'):$((20000 + SLURM_JOB_ID % 10000))

# The first node has head and driver, the others join it; it waits for all of them, that timeout at most.
code=0
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- \
  erpo run "$config" --run-dir "$run_dir" "cluster.address=$address" "$@" || code=$?
case $code in
75 | 143) scontrol requeue "$SLURM_JOB_ID" ;; # interrupted: the same command continues
esac
exit "$code"
