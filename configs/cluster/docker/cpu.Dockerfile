# The project with its pinned packages, for nodes without a GPU. From the repository root:
#   docker build -f configs/cluster/docker/cpu.Dockerfile -t erpo-ray:0.1.0-cpu .
FROM rayproject/ray:2.60.0-py312

COPY --chown=ray . /home/ray/erpo_ray
# The image's own packages give way to the lock; the embedded model comes with it.
RUN bash /home/ray/erpo_ray/requirements/install.sh cpu

ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /home/ray/erpo_ray
