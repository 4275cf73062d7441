"""Remove and restyle objects in whole video archives, unattended.

Exit codes: 0 all rows done or skipped (nothing to change), 1 some rows failed, 2 wrong usage or a bad manifest, 130
interrupted. Results go to standard output, everything else to standard error; with --json standard output holds one
JSON object and nothing else.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vace_batch import __version__, log
from vace_batch.cli_groups import actors, afterwards, finders, pixels, places, takes
from vace_batch.cli_options import AllowRoot, Json, ManifestArg, Model, OutArg, OutOption, parse_roots
from vace_batch.config import Options
from vace_batch.errors import ManifestError, UsageError, VaceBatchError
from vace_batch.explain_command import explain
from vace_batch.report.command import report
from vace_batch.results import Ledger, Summary, read_run, summarise

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(report)
app.command()(explain)
_out = Console(markup=False, highlight=False, soft_wrap=True)
_err = Console(markup=False, highlight=False, soft_wrap=True, stderr=True)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        _out.print(__version__)
        raise typer.Exit


@app.command()
def validate(manifest: ManifestArg) -> None:
    """Check a manifest; every fault of every row is one line."""
    from vace_batch.manifest import read_manifest

    jobs = read_manifest(manifest).jobs
    tasks = ", ".join(f"{count} {task}" for task, count in sorted(Counter(job.task for job in jobs).items()))
    _out.print(f"{manifest}: {len(jobs)} rows, no faults ({tasks})")


@app.command()
@takes(finders, places, pixels)
def plan(
    manifest: ManifestArg,
    options: Options,
    out: Annotated[str | None, typer.Option("-o", "--out", metavar="OUT", help="Leave out what is done there.")] = None,
    tflops: Annotated[float, typer.Option(help="What the GPU sustains, in TFLOP/s, for the estimate.")] = 350.0,
    as_json: Json = False,
) -> None:
    """Dry run: clips, shots, windows and GPU-seconds; nothing is written."""
    from vace_batch.estimate import estimate
    from vace_batch.manifest import read_manifest

    found = estimate(read_manifest(manifest), options, out=out, tflops=tflops)
    if as_json:
        _print_json(found.as_dict())
    else:
        table = Table("job", "state", "frames", "masked", "shots", "windows", "tokens", "GPU-s", "", box=None)
        for clip in found.clips:
            cells = (clip.frames, clip.masked_frames, clip.shots, clip.windows, clip.tokens, f"{clip.gpu_s:.1f}")
            table.add_row(clip.job_id, clip.state, *(str(cell) for cell in cells), clip.reason or "")
        _out.print(table)
        for line in found.settings_lines():
            _out.print(line)
        _out.print(str(found))
    raise typer.Exit(EXIT_FAILED if found.failed else EXIT_DONE)


@app.command()
@takes(finders, places, pixels, actors, afterwards)
def run(manifest: ManifestArg, out: OutOption, options: Options, as_json: Json = False) -> None:
    """Run a manifest. What OUT already holds is not done again."""
    from vace_batch.manifest import read_manifest

    _run(read_manifest(manifest), out, options, as_json)


@app.command()
def status(out: OutArg, as_json: Json = False) -> None:
    """What the ledger says of the last run on OUT."""
    summary = summarise(out, shown_only=True)
    _show_summary(summary, as_json)
    raise typer.Exit(_exit_code(summary))


@app.command()
def retry(
    out: OutArg,
    job: Annotated[list[str] | None, typer.Option(metavar="JOB_ID", help="Only these; all failed ones else.")] = None,
    allow_root: AllowRoot = None,
    as_json: Json = False,
) -> None:
    """Try the failed rows of the last run again, with its options and what they may read in addition."""
    from vace_batch.manifest import read_manifest

    run_record, summary, ledger = read_run(out), summarise(out, shown_only=True), Ledger(out)
    failed = [row for row in summary.of("failed") if not job or row["job_id"] in job]
    unknown = set(job or ()) - {row["job_id"] for row in failed}
    if unknown:
        raise UsageError(f"--job: expected failed rows of {out}, got {', '.join(sorted(unknown))}")
    options = Options.model_validate(run_record["options"])
    roots = dict.fromkeys((*options.allow_roots, *parse_roots(allow_root)))
    for row in failed:
        ledger.forgive(row["clip_key"])
    _run(read_manifest(run_record["manifest"]), out, options.model_copy(update={"allow_roots": tuple(roots)}), as_json)


@app.command()
def gc(
    out: OutArg,
    grace_hours: Annotated[float, typer.Option(help="Leave alone what is younger; longer than any step takes.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what killed or overtaken attempts left in OUT: artifacts that no record names."""
    from vace_batch.garbage import find_garbage, remove_garbage

    found = find_garbage(out, grace_s=grace_hours * 3600)
    if not dry_run:
        remove_garbage(out, found)
    if as_json:
        _print_json({"removed": not dry_run, "files": list(found.files), "num_bytes": found.num_bytes})
    else:
        did = "would remove" if dry_run else "removed"
        _out.print(f"{did} {len(found.files)} files, {found.num_bytes:,} bytes")


@app.command()
def doctor(
    model: Model = "tiny",
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="OUT", help="Also check this output folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine: versions, cores, GPUs, storage; a small window through the model, what others will take."""
    from vace_batch.doctor import examine

    checks = examine(model, out)
    if as_json:
        _print_json({"ok": all(check.ok for check in checks), "checks": [check.as_dict() for check in checks]})
    else:
        for check in checks:
            _out.print(f"{'ok   ' if check.ok else 'FAULT'}  {check.name}: {check.found}")
    raise typer.Exit(EXIT_DONE if all(check.ok for check in checks) else EXIT_FAILED)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="An original checkpoint, such as Wan2.1-VACE-1.3B.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write; --model takes it.")],
    allow_pickle: Annotated[
        list[str] | None, typer.Option(metavar="SHA256", help="Read this pickle too; Wan's published ones are known.")
    ] = None,
) -> None:
    """Write an original VACE checkpoint in the diffusers layout, as safetensors."""
    from vace_batch.vace.convert import convert as write

    write(source, target, allowed=allow_pickle or (), say=_err.print)
    _out.print(str(target))


@app.command()
def demo(out: OutOption = "demo-out") -> None:
    """Make three short clips, run the whole pipeline on them and draw a before/after sheet."""
    from vace_batch.demo.media import write_demo
    from vace_batch.demo.sheet import write_sheet
    from vace_batch.manifest import read_manifest

    path = write_demo(Path(out) / "source")
    _err.print(f"demo: made {path}")
    _err.print("demo: the embedded model is tiny: what it generates has little detail; all the rest is real")
    results_dir = str(Path(out) / "results")
    code = EXIT_DONE
    try:
        _run(read_manifest(str(path)), results_dir, Options(), as_json=False)
    except typer.Exit as done:
        code = done.exit_code
    if code in (EXIT_DONE, EXIT_FAILED):
        sheet = write_sheet(read_manifest(str(path)).jobs, summarise(results_dir), Path(out) / "before-after.png")
        _out.print(f"results  {results_dir}/videos\nledger   {results_dir}/ledger\nsheet    {sheet}")
    raise typer.Exit(code)


@app.command()
def manifest(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="A folder, a bucket prefix or a CSV file.")],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FILE", help="The Parquet file to write.")],
    task: Annotated[str | None, typer.Option(help="removal, inpainting or restyle.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="The same value for every row; repeatable."),
    ] = None,
) -> None:
    """Build a manifest from the videos below a folder or prefix, or from a CSV."""
    from vace_batch.manifest_build import build_manifest, parse_defaults

    count = build_manifest(prefix, out, task=task, **parse_defaults(column or []))
    _out.print(f"{out}: {count} rows")


@app.command()
@takes(finders, places)
def masks(
    manifest: ManifestArg,
    out: OutOption,
    options: Options,
    form: Annotated[str, typer.Option("--format", help="ffv1, png, coco or parquet.")] = "ffv1",
    as_json: Json = False,
) -> None:
    """Make only the masks, and a video of each clip that shows them: look, correct a file, name it as `mask_uri`."""
    from vace_batch.batch import mask_models, works_of
    from vace_batch.manifest import read_manifest
    from vace_batch.manifest_uri import folder_of
    from vace_batch.masks.kept import SUFFIXES
    from vace_batch.review import review

    if form not in SUFFIXES:
        raise UsageError(f"--format: expected one of {', '.join(SUFFIXES)}, got {form!r}")
    found = read_manifest(manifest)
    works = works_of(found.jobs, out, options, folder_of(found.uri))
    rows = [review(work, mask_models(options), out, form) for work in works]
    if as_json:
        _print_json({"jobs": [row.as_dict() for row in rows]})
    else:
        for row in rows:
            what = row.error or f"{row.masked_frames} of {row.frames} frames masked: {row.masks}, {row.overlay}"
            _out.print(f"{'failed' if row.error else 'masks '}   {row.job_id}: {what}")
            for line in (*row.objects, *row.words):
                _out.print(f"         {line}")
    raise typer.Exit(EXIT_FAILED if any(row.error for row in rows) else EXIT_DONE)


@app.command()
def train(
    manifest: ManifestArg,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="Checkpoint and result; gone on from.")],
    model: Model = "tiny",
    rank: Annotated[int, typer.Option(min=0, help="Rank of the LoRA; 0 trains the whole context branch.")] = 16,
    task: Annotated[
        str | None, typer.Option(help="What the windows are hidden for; `any` draws one a step.")
    ] = "removal",
    size: Annotated[str, typer.Option(metavar="WxH", help="Windows, multiples of 16.")] = "128x128",
    frames: Annotated[int, typer.Option(help="Frames of a window, 4n+1.")] = 9,
    batch: Annotated[int, typer.Option(min=1, help="Windows a step.")] = 1,
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    seed: Annotated[int, typer.Option()] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, a third slower.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, by Ray Train; a step has a batch of each.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Workers have a GPU each, not a CPU.")] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster of the workers; by default this machine.")] = None,
) -> None:
    """Fine-tune the model's context branch on a manifest's videos: random masks over clean windows."""
    from vace_batch.training.loop import Schedule
    from vace_batch.training.tune import tune, tuning_of

    tuning = tuning_of(size, frames, batch=batch, rank=rank, task=task, checkpointing=checkpointing)
    schedule = Schedule(steps=steps, learning_rate=rate, seed=seed, bf16=bf16)
    if workers > 1 or gpu or address:
        from vace_batch.cluster.training import tune_together

        tune_together(manifest, model, Path(out), tuning, schedule, workers=workers, gpu=gpu, address=address)
        _out.print(out)
        return
    _out.print(tune(manifest, model, Path(out), tuning, schedule, report=lambda n, e: _err.print(f"step {n}: {e:.4f}")))


# --- shared ----------------------------------------------------------------------------------------------------------


def _run(found: Any, out: str, options: Options, as_json: bool) -> None:
    from vace_batch.batch import close_batch, open_batch, open_runtime, run_clips
    from vace_batch.progress import view

    with _stop_on_signals() as stopped:
        batch = open_batch(found, out, options)
        earlier = len(batch.works) - len(batch.pending)
        if earlier and not as_json:
            _err.print(f"{earlier} of {len(batch.works)} rows were finished before")
        if batch.pending:
            with open_runtime(options, batch) as runtime, view(_err, quiet=as_json) as show:
                run_clips(batch, batch.pending, runtime, show=show, should_stop=stopped)
        summary = close_batch(batch)
    _show_summary(summary, as_json)
    if not batch.pending and not as_json:
        _err.print("nothing to do" + ("; `vace-batch retry` tries failed rows again" if summary.failed else ""))
    raise typer.Exit(EXIT_INTERRUPTED if stopped() else _exit_code(summary))


def _exit_code(summary: Summary) -> int:
    return EXIT_FAILED if summary.failed else EXIT_DONE


def _show_summary(summary: Summary, as_json: bool) -> None:
    if as_json:
        sys.stdout.writelines(summary.as_json())
        sys.stdout.write("\n")
        return
    for job in summary.of("failed", "skipped"):
        code = f"{job['error_code']}: " if job["status"] == "failed" else ""
        _out.print(f"{job['status']:8} {job['job_id']}: {code}{job['reason']}")
    if summary.verdicts.get("review", 0) + summary.verdicts.get("fail", 0):
        for job in summary.of("done", "skipped"):
            if job["verdict"] in ("review", "fail"):
                _out.print(f"{job['verdict']:8} {job['job_id']}: {'; '.join(job['reasons'])}")
    _out.print(str(summary))


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """The first SIGINT or SIGTERM asks for a clean stop; a second SIGINT stops at once."""
    asked = False

    def ask(signum: int, _: object) -> None:
        nonlocal asked
        if asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True
        _err.print("stopping: running steps may finish; the same command continues later")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry point of `vace-batch`."""
    log.quiet_environment()
    log.configure()
    try:
        app()
    except ManifestError as error:
        for fault in error.faults:
            _err.print(str(fault))
        sys.exit(EXIT_USAGE)
    except UsageError as error:
        _err.print(f"error: {error}")
        sys.exit(EXIT_USAGE)
    except VaceBatchError as error:
        _err.print(f"error: {error}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
