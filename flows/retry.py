"""Rows of an earlier run once more, as a Prefect flow: `vace-batch retry` on the machines of the deployment."""

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
    """Try rows of the last run on `output` again, with that run's options; the rest is left alone.

    Args:
        output: path or URI of the output folder.
        jobs: only these job ids.
        rows: failed, or finished ones by their verdict: review, fail; the failed ones by default.
        values: columns of the manifest that these rows have other values in from now on, as text.
        allow_roots: what rows may read in addition.
        shard_size: clips that one task takes through Ray.

    Raises:
        ManifestError: a row with these values has faults.
        UsageError: there are no such rows, or finished ones are to be run again as they were.
        ClusterError: Ray could not be started, also after retries.
    """
    changes = parse_overrides([f"{name}={value}" for name, value in (values or {}).items()])
    manifest, options = prepare_retry(output, jobs=jobs, rows=rows, values=changes, roots=allow_roots)
    return drive(manifest, output, options, shard_size=shard_size)
