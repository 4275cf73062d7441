"""Turn new files below a prefix into finished videos, as a Prefect flow that polls once per flow run."""

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
    """Poll once: add files that stopped changing as rows to OUT/watch/manifest.parquet, and run that manifest.

    Args:
        prefix: the folder or bucket prefix that receives videos, at any depth.
        output: path or URI of the output folder; not below `prefix`.
        task: task of every row.
        columns: other columns of the manifest for every row, as text: {"targets": "person", "dilate": "8px"}.
        settle_s: seconds without a change after which a file is taken.
        shard_size: clips in one shard, which one task runs.
        model: a model as for `vace-batch run --model`.
        settings: further options, in the form of `options` in run.json.

    Raises:
        ManifestError: a row may not have these columns.
        UsageError: a place, a column or a setting is wrong.
        ClusterError: Ray could not be started, even after retries.
    """
    fixed = parse_overrides([f"{name}={value}" for name, value in (columns or {}).items()])
    roots = (*(settings or {}).get("allow_roots", ()), folder_of(storage.join(prefix, "x")))
    options = options_of(settings, model=model, allow_roots=roots)
    inbox = poll(prefix, output, {"task": task, **fixed}, settle_s=settle_s)
    message = f"{inbox.rows} files, {inbox.new} of them new; {inbox.waiting} may still be written"
    get_run_logger().info("%s", message)
    if not inbox.is_due:
        return Completed(name=NOTHING_NEW, message=message)
    state = drive(read_manifest(inbox.manifest), output, options, shard_size=shard_size)
    if not state.result()["pending"]:
        settle(output)
    return state
