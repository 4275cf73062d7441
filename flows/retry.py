"""Run rows of an earlier run again, as a Prefect flow: `vace-batch retry` on the deployment's machines."""

from __future__ import annotations

from prefect import State, flow

from flows.driving import drive
from vace_batch.batch.retry import prepare_retry
from vace_batch.ledger.overrides import parse_overrides


@flow(name="vace-batch-retry", flow_run_name="{output}", persist_result=False)
def retry(
    output: str,
    jobs: tuple[str, ...] = (),
    rows: tuple[str, ...] = (),
    values: dict[str, str] | None = None,
    allow_roots: tuple[str, ...] = (),
    shard_size: int = 200,
) -> State[dict[str, int]]:
    """Run rows of the last run on `output` again, with the options of that run. Other rows are left alone.

    Args:
        output: path or URI of the output folder.
        jobs: only these job ids.
        rows: failed (the default), or finished rows by verdict: review, fail.
        values: values by column, as text, that replace the manifest's in these rows from now on.
        allow_roots: further folders or URIs that rows may read.
        shard_size: clips in one shard, which one task runs.

    Raises:
        ManifestError: a row with these values has faults.
        UsageError: no such row exists, or finished rows are to be run again without a change.
        ClusterError: Ray could not be started, even after retries.
    """
    changes = parse_overrides([f"{name}={value}" for name, value in (values or {}).items()])
    manifest, options = prepare_retry(output, jobs=jobs, rows=rows, values=changes, roots=allow_roots)
    return drive(manifest, output, options, shard_size=shard_size)
