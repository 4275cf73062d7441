"""New files below a prefix become finished videos, as a Prefect flow that looks once each time it runs."""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger
from prefect.states import Completed

from flows.driving import drive, options_of
from vace_batch.ledger.overrides import parse_overrides
from vace_batch.manifest.inbox import SETTLE_S, poll, settle
from vace_batch.manifest.reader import read_manifest
from vace_batch.manifest.uris import folder_of
from vace_batch.storage import files as storage

NOTHING_NEW = "NothingNew"


@flow(name="vace-batch-watch", flow_run_name="{prefix}", persist_result=False)
def watch(
    prefix: str,
    output: str,
    task: str = "removal",
    columns: dict[str, str] | None = None,
    settle_s: float = SETTLE_S,
    shard_size: int = 200,
    model: str = "tiny",
    settings: dict[str, Any] | None = None,
) -> State[dict[str, int]]:
    """Look once; files that have been the same for long enough are rows of OUT/watch/manifest.parquet, and are run.

    Args:
        prefix: the folder or bucket prefix that videos come to, at any depth.
        output: path or URI of the output folder; not below `prefix`.
        task: of every row.
        columns: the manifest's other columns for every row, as text: {"targets": "person", "dilate": "8px"}.
        settle_s: how long a file has to stay as it is before it is taken; a run sees no more than it did in its look.
        shard_size: clips that one task takes through Ray.
        model: what `vace-batch run --model` takes.
        settings: everything else that a run may be told, as run.json has it under `options`.

    Raises:
        ManifestError: no row may have these columns.
        UsageError: a place, a column or a setting is wrong.
        ClusterError: Ray could not be started, also after retries.
    """
    filled = parse_overrides([f"{name}={value}" for name, value in (columns or {}).items()])
    roots = (*(settings or {}).get("allow_roots", ()), folder_of(storage.join(prefix, "x")))
    options = options_of(settings, model=model, allow_roots=roots)
    found = poll(prefix, output, {"task": task, **filled}, settle_s=settle_s)
    said = f"{found.rows} files, {found.new} of them new; {found.waiting} may still be written"
    get_run_logger().info("%s", said)
    if not found.is_due:
        return Completed(name=NOTHING_NEW, message=said)
    state = drive(read_manifest(found.manifest), output, options, shard_size=shard_size)
    if not state.result()["pending"]:
        settle(output)
    return state
