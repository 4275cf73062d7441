"""The pools of a run follow its options."""

from __future__ import annotations

import pytest

from vace_batch.batch.pools import pools_of
from vace_batch.errors import UsageError
from vace_batch.options import Options


def test_pools_keep_what_the_options_say() -> None:
    fixed = pools_of(Options(cpu_actors=3), 8)
    assert [(pool.num_actors, pool.min_actors, pool.num_gpus) for pool in fixed] == [(3, None, 0), (8, None, 1)]
    elastic = pools_of(Options(cpu_actors=30, gpu_actors=6, min_cpu_actors=1, min_gpu_actors=0), 8)
    assert [(pool.num_actors, pool.min_actors) for pool in elastic] == [(30, 1), (6, 0)]
    with pytest.raises(UsageError, match="--min-gpu-actors: expected at most 2, which is --gpu-actors, got 3"):
        pools_of(Options(gpu_actors=2, min_gpu_actors=3), 8)
