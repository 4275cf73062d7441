"""The machines of a cluster: the number of their GPUs, asked before any actor starts, and their host names."""

from __future__ import annotations

import os
import sys
from glob import glob


def count_gpus(address: str | None = None) -> int:
    """Count the GPUs of the Ray cluster at `address`, which this process joins, or without an address those of this
    machine.

    For a cluster without GPUs yet, this is the number that its autoscaler may start, or 1 if the autoscaler has no
    bound.
    """
    if address is not None:
        from vace_batch.cluster.connection import join  # isort: skip  (first: it sets Ray's environment)
        import ray

        from vace_batch.cluster.ray_private import most_gpus

        if not ray.is_initialized():
            join(address)
        most = int(ray.cluster_resources().get("GPU", 0)) or most_gpus()
        return 1 if most == sys.maxsize else most
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return sum(entry.strip() not in ("", "-1") for entry in visible.split(","))
    return len(glob("/dev/nvidia[0-9]*"))


def host_of(node: str) -> str:
    """Return the host name of the node with this id, or an empty string if Ray does not know the node."""
    import ray

    nodes = ray.nodes() if ray.is_initialized() else []
    return next((str(one["NodeManagerHostname"]) for one in nodes if one["NodeID"] == node), "")
