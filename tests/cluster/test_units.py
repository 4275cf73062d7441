"""Units and pools: their ids, and the values that they refuse."""

from __future__ import annotations

import pytest

from vace_batch.cluster.units import Failure, PoolSpec, Unit
from vace_batch.errors import ClipError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fn": "no_colon"}, "fn must be 'package.module:function', got 'no_colon'"),
        ({"leaves_bytes": -1}, "expected leaves_bytes >= 0"),
        ({"time_limit_s": 0.0}, "time_limit_s > 0"),
    ],
)
def test_a_unit_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"kind": "any", "key": "u", "pool": "cpu", "fn": "module:function"}
    with pytest.raises(ValueError, match=message):
        Unit(**{**fields, **change})  # type: ignore[arg-type]


def test_a_pool_needs_actors() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        PoolSpec(name="cpu", num_actors=0)


def test_an_id_is_the_kind_and_the_key() -> None:
    assert Unit(kind="build", key="window-a/b", pool="cpu", fn="a:b").unit_id == "build/window-a/b"


def test_a_failure_reads_like_a_clip_error() -> None:
    failure = Failure(unit_id="any/u", code="timeout", reason="it hung", attempts=3)
    assert str(failure) == str(ClipError("timeout", "it hung")) == "timeout: it hung"
