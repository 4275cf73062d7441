"""The command `vace-batch plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vace_batch.cli.option_groups import costs, finders, pixels, places, takes
from vace_batch.cli.options import Json, ManifestArg
from vace_batch.cli.running import EXIT_DONE, EXIT_FAILED, OUT, print_json
from vace_batch.costs import Speed
from vace_batch.options import Options

if TYPE_CHECKING:
    from vace_batch.batch.dry_run import Estimate


_LOG_WIDTH = 160
"""Where the output is a file: rich would cut the table at 80."""


@takes(finders, places, pixels, costs)
def plan(
    manifest: ManifestArg,
    options: Options,
    out: Annotated[str | None, typer.Option("-o", "--out", metavar="OUT", help="Leave out what is done there.")] = None,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="What the GPU sustains, in TFLOP/s, in place of what was measured.")
    ] = None,
    look: Annotated[
        int, typer.Option(min=0, metavar="N", help="Really make masks and background of N jobs, to see what is left.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Dry run: clips, shots, windows, GPU and CPU seconds, storage and money; nothing is written."""
    from vace_batch.batch.dry_run import estimate
    from vace_batch.manifest.reader import read_manifest

    if tflops is not None:
        rates = options.calibration.model_copy(update={"models": {}, "other": Speed.sustained(tflops)})
        options = options.model_copy(update={"calibration": rates})
    found = estimate(read_manifest(manifest), options, out=out, look=look)
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found)
    raise typer.Exit(EXIT_FAILED if found.failed else EXIT_DONE)


def _show(found: Estimate) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "job", "state", "frames", "masked", "shots", "windows", "tokens", "GPU-s", "core-s", "MB", "", box=None
    )
    for clip in found.clips:
        counts = (clip.frames, clip.masked_frames, clip.shots, clip.windows, clip.tokens)
        used = (clip.used.gpu_s, clip.used.cpu_s, clip.used.num_bytes / 1e6)
        cells = (*(str(count) for count in counts), *(f"{amount:.1f}" for amount in used))
        table.add_row(clip.job_id, clip.state, *cells, clip.reason or "")
    (OUT if OUT.is_terminal else Console(markup=False, highlight=False, width=_LOG_WIDTH)).print(table)
    for line in found.settings_lines():
        OUT.print(line)
    for line in found.cost_lines():
        OUT.print(line)
    OUT.print(str(found))
