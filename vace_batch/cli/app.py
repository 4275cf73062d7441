"""Remove and restyle objects in whole video archives, unattended.

Exit codes: 0 all rows are done or skipped (nothing to change), 1 some rows failed or `verify` found problems, 2
wrong usage or a bad manifest, 3 the budget is spent and rows are left, 4 the Ray cluster or the store was lost and the
same command continues, 130 interrupted. Results go to standard output, everything else to standard error; with --json
standard output holds one JSON object and nothing else.
"""

from __future__ import annotations

# Imports inside commands are for start-up time only: each loads torch, Ray, diffusers, transformers, OpenCV, PyAV or
# the hub's client. tests/cli/test_startup.py holds that `import vace_batch.cli.app` and `--help` load none of these.
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vace_batch import __version__, log
from vace_batch.cli.explain import explain
from vace_batch.cli.options import (
    ACTORS,
    AFTERWARDS,
    BOUNDS,
    COSTS,
    DETECTOR,
    FINDERS,
    MODEL,
    PIXELS,
    PLACES,
    Json,
    ManifestArg,
    OutArg,
    OutOption,
    with_options,
)
from vace_batch.cli.plan import plan
from vace_batch.cli.report import report
from vace_batch.cli.retry import retry
from vace_batch.cli.running import (
    ERR,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    EXIT_USAGE,
    OUT,
    print_json,
    run_batch,
)
from vace_batch.cli.status import status
from vace_batch.cli.validate import validate
from vace_batch.cli.verify import verify
from vace_batch.errors import LostError, ManifestError, UsageError, VaceBatchError
from vace_batch.ledger.garbage import find_garbage, remove_garbage
from vace_batch.ledger.summary import summarise
from vace_batch.manifest.builder import build_manifest, parse_defaults
from vace_batch.manifest.reader import read_manifest
from vace_batch.manifest.uris import folder_of
from vace_batch.options import Options
from vace_batch.report.writer import write_report

if TYPE_CHECKING:
    from vace_batch.report.mask_review import Reviewed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for _command in (validate, plan, report, explain, status, retry, verify):
    app.command()(_command)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        OUT.print(__version__)
        raise typer.Exit


@app.command()
@with_options(*FINDERS, *PLACES, *PIXELS, *ACTORS, *AFTERWARDS, *COSTS, *BOUNDS)
def run(
    manifest: ManifestArg,
    out: OutOption,
    options: Options,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every finished video and artifact before deciding what is finished."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a manifest. Rows that are finished in OUT are not run again; lost or replaced videos are made again."""
    raise typer.Exit(run_batch(read_manifest(manifest), out, options, as_json=as_json, verify=verify))


@app.command()
def gc(
    out: OutArg,
    grace_hours: Annotated[
        float, typer.Option(help="Keep files younger than this; must be longer than any step takes.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the files that would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove artifacts in OUT that no record names: the remains of killed or overtaken attempts."""
    garbage = find_garbage(out, grace_s=grace_hours * 3600)
    if not dry_run:
        remove_garbage(out, garbage)
    if as_json:
        print_json({"removed": not dry_run, "files": list(garbage.files), "num_bytes": garbage.num_bytes})
    else:
        verb = "would remove" if dry_run else "removed"
        OUT.print(f"{verb} {len(garbage.files)} files, {garbage.num_bytes:,} bytes")


@app.command()
@with_options(MODEL, DETECTOR)
def doctor(
    options: Options,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="OUT", help="Also check this output folder.")
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", metavar="FILE", help="Also measure this machine and write the rates to FILE."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine: versions, cores, GPUs, storage; run a small window and predict the time of larger ones."""
    from vace_batch.batch.doctor import examine

    checks = examine(options.model, out, calibrate, options.detector)
    if as_json:
        print_json({"ok": all(check.ok for check in checks), "checks": [check.as_dict() for check in checks]})
    else:
        for check in checks:
            OUT.print(f"{'ok   ' if check.ok else 'FAULT'}  {check.name}: {check.result}")
    raise typer.Exit(EXIT_DONE if all(check.ok for check in checks) else EXIT_FAILED)


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder of an original checkpoint, such as Wan2.1-VACE-1.3B.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write, for --model.")],
    allow_pickle: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SHA256",
            help="Also read the pickle with this SHA-256; Wan's published pickles are always read; repeatable.",
        ),
    ] = None,
) -> None:
    """Convert an original VACE checkpoint to the diffusers layout, as safetensors."""
    from vace_batch.vace.convert import convert as convert_checkpoint

    convert_checkpoint(source, target, allowed=allow_pickle or (), say=ERR.print)
    OUT.print(str(target))


@app.command()
def demo(out: OutOption = "demo-out") -> None:
    """Make six short clips, run the whole pipeline on them, draw a before/after sheet and write the report."""
    from vace_batch.demo.clips import CAPTIONS, write_demo
    from vace_batch.report.contact_sheet import write_sheet

    path = write_demo(Path(out) / "source")
    ERR.print(f"demo: made {path}")
    ERR.print("demo: the embedded model is tiny and paints little detail; everything else is real")
    results_dir = str(Path(out) / "results")
    manifest = read_manifest(path)
    code = run_batch(manifest, results_dir, Options(), as_json=False)
    if code in (EXIT_DONE, EXIT_FAILED):
        sheet = write_sheet(manifest.jobs, summarise(results_dir), Path(out) / "before-after.png", captions=CAPTIONS)
        page = write_report(results_dir, previews=len(manifest.jobs)).uri
        OUT.print(f"results  {results_dir}/videos\nledger   {results_dir}/ledger\nsheet    {sheet}\nreport   {page}")
    raise typer.Exit(code)


@app.command()
def manifest(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="A folder, a bucket prefix or a CSV file.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="Parquet file to write.")],
    task: Annotated[str | None, typer.Option(help="removal, inpainting or restyle.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="Value of a column for every row; repeatable."),
    ] = None,
) -> None:
    """Build a manifest from the videos below a folder or bucket prefix, or from a CSV file."""
    count = build_manifest(prefix, out, task=task, **parse_defaults(column or []))
    OUT.print(f"{out}: {count} rows")


@app.command()
@with_options(*FINDERS, *PLACES)
def masks(
    manifest: ManifestArg,
    out: OutOption,
    options: Options,
    form: Annotated[str, typer.Option("--format", help="ffv1, png, coco or parquet.")] = "ffv1",
    as_json: Json = False,
) -> None:
    """Make only the masks, and a video of each clip that shows them. Correct a mask file and name it in `mask_uri`."""
    from vace_batch.batch.identity import mask_models, works_of
    from vace_batch.masks.export_files import SUFFIXES
    from vace_batch.report.mask_review import review

    if form not in SUFFIXES:
        raise UsageError(f"--format: expected one of {', '.join(SUFFIXES)}, got {form!r}")
    source = read_manifest(manifest)
    works = works_of(source.jobs, out, options, folder_of(source.uri))
    rows = [review(work, mask_models(options), out, form) for work in works]
    if as_json:
        print_json({"jobs": [row.as_dict() for row in rows]})
    else:
        for row in rows:
            _print_masks(row)
    raise typer.Exit(EXIT_FAILED if any(row.error for row in rows) else EXIT_DONE)


def _print_masks(row: Reviewed) -> None:
    """Print the masks of a row, its objects and its notes."""
    result = row.error or f"{row.masked_frames} of {row.frames} frames masked: {row.masks}, {row.overlay}"
    OUT.print(f"{'failed' if row.error else 'masks '}   {row.job_id}: {result}")
    for line in (*row.objects, *row.notes):
        OUT.print(f"         {line}")


@app.command()
@with_options(MODEL)
def train(
    manifest: ManifestArg,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="DIR", help="Checkpoint folder; training resumes from it.")
    ],
    options: Options,
    rank: Annotated[int, typer.Option(min=0, help="Rank of the LoRA; 0 trains the whole context branch.")] = 16,
    task: Annotated[
        str | None, typer.Option(help="Task that the training windows are masked for; `any` draws one per step.")
    ] = "removal",
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of a window, multiples of 16.")] = "128x128",
    frames: Annotated[int, typer.Option(help="Frames of a window, 4n+1.")] = 9,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step and process.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 1000,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Seed of the windows, masks and noise.")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute activations: less memory, a third slower.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Training processes, started by Ray Train.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each process a GPU instead of a CPU core.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster for the processes; by default this machine.")] = None,
) -> None:
    """Fine-tune the model's context branch on a manifest's videos: random masks over clean windows."""
    from vace_batch.vace.training.finetune import tune, tuning_of
    from vace_batch.vace.training.loop import Schedule

    model, folder = options.model, Path(out)
    tuning = tuning_of(size, frames, batch=batch, rank=rank, task=task, checkpointing=checkpointing)
    schedule = Schedule(steps=steps, learning_rate=rate, seed=seed, bf16=bf16)
    if workers > 1 or gpu or address:
        from vace_batch.cluster.training import Team, tune_together

        tune_together(manifest, model, folder, tuning, schedule, Team(workers=workers, gpu=gpu, address=address))
        OUT.print(out)
    else:
        OUT.print(tune(manifest, model, folder, tuning, schedule, report=lambda n, e: ERR.print(f"step {n}: {e:.4f}")))


def main() -> None:
    """Entry point of `vace-batch`."""
    log.quiet_environment()
    log.configure()
    try:
        app()
    except ManifestError as error:
        for fault in error.faults:
            ERR.print(str(fault))
        sys.exit(EXIT_USAGE)
    except UsageError as error:
        ERR.print(f"error: {error}")
        sys.exit(EXIT_USAGE)
    except LostError as error:
        ERR.print(f"error: {error}")
        sys.exit(EXIT_LOST)
    except VaceBatchError as error:
        ERR.print(f"error: {error}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
