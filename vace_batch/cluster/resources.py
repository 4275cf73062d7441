"""How many GPUs there are, asked before any actor starts."""

from __future__ import annotations

import os
from glob import glob


def count_gpus(address: str | None = None) -> int:
    """GPUs of the Ray cluster at `address`, which this process joins; of this machine when there is none."""
    if address is not None:
        import ray

        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        return int(ray.cluster_resources().get("GPU", 0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return sum(entry.strip() not in ("", "-1") for entry in visible.split(","))
    return len(glob("/dev/nvidia[0-9]*"))
