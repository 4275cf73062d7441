"""Test that relative URIs are resolved as text, and never leave their bucket."""

from __future__ import annotations

import pytest

from vace_batch.manifest.uris import UriError, folder_of, relative_uri, resolve_uri


@pytest.mark.parametrize(
    ("uri", "folder", "absolute"),
    [
        ("v/a.mp4", "/in", "/in/v/a.mp4"),
        ("../a.mp4", "/in", "/a.mp4"),
        ("/x/a.mp4", "/in", "/x/a.mp4"),
        ("file:///x/a.mp4", "/in", "/x/a.mp4"),
        ("file:proto.mp4", "/in", "/in/file:proto.mp4"),
        ("pct%2F..%2Fup.mp4", "/in", "/in/pct%2F..%2Fup.mp4"),
        ("star*[1]?.mp4", "/in", "/in/star*[1]?.mp4"),
        (" two  spaces .mp4", "/in", "/in/ two  spaces .mp4"),
        ("new\nline.mp4", "/in", "/in/new\nline.mp4"),
        ("s3://b/k/../a.mp4", "/in", "s3://b/k/../a.mp4"),
        ("v/a.mp4", "s3://b/in", "s3://b/in/v/a.mp4"),
        ("../v/a%20b.mp4", "s3://b/in", "s3://b/v/a%20b.mp4"),
        ("a.mp4", "s3://b", "s3://b/a.mp4"),
        ("/x/a.mp4", "s3://b/in", "/x/a.mp4"),
        ("a.mp4", "memory://in", "memory://in/a.mp4"),
    ],
)
def test_relative_uris_start_at_the_manifest_and_nothing_is_decoded(uri: str, folder: str, absolute: str) -> None:
    assert resolve_uri(uri, folder) == absolute
    assert resolve_uri(relative_uri(absolute, folder), folder) == absolute


@pytest.mark.parametrize("uri", ["../../x", "../../../b2/x", "a::http://h/x", "a::file"])
def test_relative_uris_cannot_leave_the_bucket(uri: str) -> None:
    with pytest.raises(UriError):
        resolve_uri(uri, "s3://b/in")


def test_folder_of() -> None:
    assert [folder_of(uri) for uri in ("/a/m", "file:///a/m", "s3://b/m", "s3://b/c/m")] == [
        "/a",
        "/a",
        "s3://b",
        "s3://b/c",
    ]
