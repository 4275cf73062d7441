"""A stand-in for VACE's engine without torch and diffusers, for runs on a real Ray whose pixels do not matter.

A GPU actor that imports the engine needs 5 s of CPU for the import. The stand-in paints a mask with the mean colour of
the rest of the frame, equally whatever is generated beside it, and takes `WINDOW_S` a window, so that there is time to
stop a run. `python -m tests.support.stand_in_engine run ...` is the command line with the stand-in.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import vace_batch.__main__ as entry
from vace_batch.vcu.unit import VCU, Pixels

MODULE = "tests.support.stand_in_engine"
"""The name of this module, also where it is the command."""

WINDOW_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """As `vace_batch.vace.engine.Made`, whose module imports torch and diffusers."""

    index: int
    frames: Pixels
    seconds: float
    error: None = None


class StandIn:
    """An engine for any model."""

    def get(self, ref: str, revision: str) -> StandIn:
        return self

    def stream(self, vcus: Sequence[VCU]) -> Iterator[Made]:
        for index, vcu in enumerate(vcus):
            begin = time.monotonic()
            time.sleep(WINDOW_S)
            yield Made(index=index, frames=_painted(vcu), seconds=time.monotonic() - begin)


def _painted(vcu: VCU) -> Pixels:
    frames = vcu.frames_THWC.copy()
    for frame, mask in zip(frames, vcu.mask_THW, strict=True):
        frame[mask] = frame[~mask].mean(axis=0).astype(np.uint8) if not mask.all() else 128
    return frames


def set_up(**_: Any) -> StandIn:
    """Set up a GPU actor, instead of `vace_batch.batch.workers.vace_setup`."""
    return StandIn()


def with_stand_in(pools_of: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `vace_batch.batch.pools.pools_of` whose GPU actors have the stand-in."""

    def pools(*arguments: Any) -> Any:
        cpu, gpu = pools_of(*arguments)
        return cpu, replace(gpu, setup=f"{MODULE}:set_up", setup_args={})

    return pools


def main() -> None:
    """Run the command line with the stand-in, in the process that does the work."""
    command = entry._run_command

    def command_with_stand_in() -> None:
        from vace_batch.batch import pools  # here because the process that supervises the command imports no Ray

        pools.pools_of = with_stand_in(pools.pools_of)
        command()

    if sys.argv[1] in entry.WITH_RAY:
        entry._run_command = command_with_stand_in
    entry.main()


if __name__ == "__main__":
    main()
