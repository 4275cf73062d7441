"""The command `vace-batch plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vace_batch.cli.options import COSTS, FINDERS, PIXELS, PLACES, Json, ManifestArg, with_options
from vace_batch.cli.running import EXIT_DONE, EXIT_FAILED, OUT, print_json
from vace_batch.costs import Speed
from vace_batch.options import Options

if TYPE_CHECKING:
    from vace_batch.batch.dry_run import Estimate


_LOG_WIDTH = 160
"""Columns of a table that goes to a file: rich would cut it at 80."""


@with_options(*FINDERS, *PLACES, *PIXELS, *COSTS)
def plan(
    manifest: ManifestArg,
    options: Options,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="OUT", help="Leave out rows that are done in this folder.")
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="TFLOP/s that the GPU sustains, in place of measured rates.")
    ] = None,
    look: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Compute masks and background of N jobs, for a tighter estimate."),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Estimate clips, shots, windows, GPU and CPU seconds, storage and money; writes nothing."""
    from vace_batch.batch.dry_run import plan as estimate  # loads OpenCV and PyAV

    if tflops is not None:
        rates = options.calibration.model_copy(update={"models": {}, "other": Speed.sustained(tflops)})
        options = options.model_copy(update={"calibration": rates})
    estimated = estimate(manifest, options, out=out, look=look)
    if as_json:
        print_json(estimated.as_dict())
    else:
        _show(estimated)
    raise typer.Exit(EXIT_FAILED if estimated.failed else EXIT_DONE)


def _show(estimate: Estimate) -> None:
    table = Table(
        "job", "state", "frames", "masked", "shots", "windows", "tokens", "GPU-s", "core-s", "MB", "", box=None
    )
    for clip in estimate.clips:
        counts = (clip.frames, clip.masked_frames, clip.shots, clip.windows, clip.tokens)
        used = (clip.used.gpu_s, clip.used.cpu_s, clip.used.num_bytes / 1e6)
        cells = (*(str(count) for count in counts), *(f"{amount:.1f}" for amount in used))
        table.add_row(clip.job_id, clip.state, *cells, clip.reason or "")
    (OUT if OUT.is_terminal else Console(markup=False, highlight=False, width=_LOG_WIDTH)).print(table)
    for line in estimate.settings_lines():
        OUT.print(line)
    for line in estimate.cost_lines():
        OUT.print(line)
    OUT.print(str(estimate))
