"""Where things run: worker pools, Ray Train, Ray Data. Only `pool` is free of Ray; the in-process backend shares it."""
