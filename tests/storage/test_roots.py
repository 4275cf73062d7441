"""Test the places that a run may read."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vace_batch.storage.roots import Roots


def test_roots_hold_what_is_below_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    roots = Roots.of([str(tmp_path / "alias"), "s3://bucket/archive/", "s3://whole"])
    for uri in (tmp_path / "in" / "x.mp4", tmp_path / "alias" / "x", tmp_path / "in", f"file://{tmp_path}/in/x"):
        assert roots.allow(str(uri))
    for uri in ("s3://bucket/archive/2020/x.mp4", "s3://whole/x.mp4", "s3://bucket/archive"):
        assert roots.allow(uri)
    for uri in (
        str(tmp_path / "in" / "link" / "x.mp4"),
        str(tmp_path / "in" / ".." / "out" / "x"),
        str(tmp_path / "in2"),
        "s3://bucket/archive2/x",
        "s3://bucket/archive/../x",
        "s3://wholesale/x",
        "gs://bucket/archive/x",
        "s3://whole@evil:80@bucket/x",
        "s3://bucket/archive/x::file:///etc/passwd",
        "http://bucket/archive/x",
    ):
        assert not roots.allow(uri), uri


def test_the_root_of_the_disk_holds_every_file() -> None:
    assert Roots.of(["/"]).allow("/etc/passwd") and not Roots.of([]).allow("/etc/passwd")


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "in", "in2", ""]), max_size=6))
def test_no_path_leaves_its_root(parts: list[str]) -> None:
    """Without links, an allowed path starts with the root when the path is normalised."""
    from os.path import normpath

    uri = "/nowhere/in/" + "/".join(parts)
    assert Roots.of(["/nowhere/in"]).allow(uri) == (normpath(uri) + "/").startswith("/nowhere/in/")
