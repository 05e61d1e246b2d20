# The project with its pinned packages, for nodes with NVIDIA GPUs: CUDA comes with torch, the driver (for CUDA 13) from
# the node. From the repository root:
#   docker build -f configs/cluster/docker/cuda.Dockerfile -t erpo-ray:0.1.0-cuda .
FROM rayproject/ray:2.60.0-py312-gpu

COPY --chown=ray . /home/ray/erpo_ray
RUN bash /home/ray/erpo_ray/requirements/install.sh gpu

ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/ray/erpo_ray
