"""Count the tokens that planning sends to the GPU, against sending every frame full-size.

    python benchmarks/gpu_work.py [MANIFEST] [--model M]        by default the demo's manifest

The peer is the plain use of VACE: each shot in windows of the model's length and overlap, at the frame's own size in
multiples of 16, whether a frame has a mask or not. Both are counted, not timed, so the machine does not matter.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from vace_batch.batch.identity import works_of
from vace_batch.demo.clips import write_demo
from vace_batch.geometry import TOKEN_PX, Size, align_up, token_count
from vace_batch.manifest.reader import read_manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.planning.windows import spread
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.prepare import survey


def planned_tokens(plan: ClipPlan) -> int:
    return sum(token_count(p.window.num_frames, plan.region_of(p).size) for p in plan.windows)


def full_tokens(plan: ClipPlan, work: ClipWork) -> int:
    size = Size(align_up(plan.size.width, TOKEN_PX), align_up(plan.size.height, TOKEN_PX))
    windows = [span for shot in plan.shots for span in spread(shot.start, shot.stop, work.limits)]
    return sum(token_count(-(-(stop - start - 1) // 4) * 4 + 1, size) for start, stop in windows)


def main(
    manifest: Annotated[Path | None, typer.Argument()] = None,
    model: Annotated[str, typer.Option()] = "tiny",
) -> None:
    """Print one row a clip and the total."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = read_manifest(str(manifest or write_demo(folder))).jobs
        print(f"{'clip':28s} {'recovered':>9s} {'windows':>8s} {'tokens':>10s} {'full-size':>10s} {'ratio':>8s}")
        totals = [0, 0]
        for work in works_of(jobs, folder, Options(model=model), "/"):
            plan = survey(work, MaskModels(), Path(folder))
            tokens, full = planned_tokens(plan), full_tokens(plan, work)
            totals = [totals[0] + tokens, totals[1] + full]
            row = f"{plan.recovered_share:9.1%} {len(plan.windows):8d} {tokens:10,d} {full:10,d} {tokens / full:8.3f}"
            print(f"{work.job.job_id:28s} {row}", flush=True)
        print(f"{'total':28s} {'':18s} {totals[0]:10,d} {totals[1]:10,d} {totals[0] / totals[1]:8.3f}")


if __name__ == "__main__":
    typer.run(main)
