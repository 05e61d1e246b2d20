#!/usr/bin/env bash
# The pinned packages and this project, into the Python that is active: `bash requirements/install.sh gpu` (or cpu).
# What the lock names is checked against its hashes. The files of Ray's launcher and the Dockerfiles use this; the Slurm
# script takes the .venv of the repository, into which it is run once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
gpu) ;;
cpu) python -m pip install --no-cache-dir --no-deps -r requirements/torch-cpu.txt \
  --extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" ;;
*) echo "usage: bash requirements/install.sh gpu|cpu" >&2 && exit 2 ;;
esac
python -m pip install --no-cache-dir --no-deps --require-hashes -r "requirements/lock-$1.txt"
python -m pip install --no-cache-dir --no-deps --no-build-isolation -e .
