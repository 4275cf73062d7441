"""Overrides of rows: parsed as the manifest's values, and valid while the row is unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vace_batch.errors import ManifestError, UsageError
from vace_batch.ledger.overrides import apply_overrides, parse_overrides, record_overrides, with_values
from vace_batch.manifest.job import BoxKey, Dilation, Job

BOX = BoxKey(x=8, y=8, width=16, height=16)


JOB = Job(job_id="a", video_uri="/v.mp4", task="removal", boxes=(BOX,))


def test_values_are_the_manifests_and_checked_as_such() -> None:
    values = parse_overrides(["seed=7", "dilate=12px", "mask_shape=hull", "prompt=a lawn"])
    changed = with_values(JOB, values, "/")
    assert (changed.seed, changed.dilate, changed.mask_shape) == (7, Dilation(px=12.0), "hull")
    assert with_values(changed, parse_overrides(["dilate="]), "/") == replace(changed, dilate=None)
    with pytest.raises(UsageError, match="one of .*dilate"):
        parse_overrides(["dilatation=3"])
    with pytest.raises(UsageError, match="column of the manifest, got nothing"):
        parse_overrides(["nothing="])
    with pytest.raises(UsageError, match="got task, video_uri"):
        parse_overrides(["video_uri=x.mp4", "task=restyle"])
    with pytest.raises(ManifestError) as error:
        with_values(JOB, {"seed": -1, "mask_shape": "round"}, "/")
    assert [fault.column for fault in error.value.faults] == ["seed", "mask_shape"]
    with pytest.raises(ManifestError, match=r"row 0 \(a\), column .*"):
        with_values(JOB, {"boxes": None}, "/")


def test_a_change_holds_for_the_row_that_it_was_made_for(tmp_path: Path) -> None:
    out, other = str(tmp_path), replace(JOB, job_id="b")
    record_overrides(out, [JOB], {"seed": 5, "mask_shape": "hull"})
    record_overrides(out, [JOB], {"seed": 6})
    moved = replace(JOB, row=9)
    assert apply_overrides([moved, other], out, "/") == (replace(moved, seed=6, mask_shape="hull"), other)
    edited = replace(JOB, prompt="sand")
    assert apply_overrides([edited], out, "/") == (edited,)
