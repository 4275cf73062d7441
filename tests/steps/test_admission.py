"""Files, models and sizes that a row may name, and rows that are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.bad_rows import open_rows, outcomes, row
from vace_batch.errors import ClipError
from vace_batch.masks.models import MaskModels
from vace_batch.options import MediaLimits, Options
from vace_batch.steps.build import build
from vace_batch.steps.keep import keep
from vace_batch.steps.prepare import prepare
from vace_batch.steps.stitch import stitch

KEEPS = Options(keep_masks="png")


def test_only_what_was_given_is_read(tmp_path: Path, good: bytes) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (inside, outside, inside / "masks"):
        folder.mkdir()
    (inside / "ok.mp4").write_bytes(good)
    (outside / "video.mp4").write_bytes(good)
    (inside / "away.mp4").symlink_to(outside / "video.mp4")
    (inside / "tree").symlink_to(outside)
    (tmp_path / "in-too").mkdir()
    (tmp_path / "in-too" / "video.mp4").write_bytes(good)
    (inside / "masks" / "0.png").symlink_to("/etc/passwd")
    places = {
        "through the parent": "../in/ok.mp4",
        "absolute": str(inside / "ok.mp4"),
        "file://": f"file://{inside}/ok.mp4",
        "/etc/passwd": "/etc/passwd",
        "/dev/zero": "/dev/zero",
        "/dev/stdin": "/dev/stdin",
        "/proc": "/proc/self/environ",
        "parent": "../outside/video.mp4",
        "link": "away.mp4",
        "linked folder": "tree/video.mp4",
        "longer name": "../in-too/video.mp4",
        "bucket": "s3://bucket/video.mp4",
    }
    rows: list[Mapping[str, Any]] = [row(name, video_uri=uri) for name, uri in places.items()]
    rows += [
        row("mask", video_uri="ok.mp4", mask_uri="/etc/shadow"),
        row("mask link", video_uri="ok.mp4", mask_uri="masks"),
    ]
    found = outcomes(inside, rows)
    good_ones = {"through the parent", "absolute", "file://"}
    assert {name for name, code in found.items() if code == "ok"} == good_ones
    assert {code for name, code in found.items() if name not in good_ones} == {"not_allowed"}
    allowed = outcomes(inside, rows, Options(allow_roots=(str(outside),)))
    # What was refused is tried anew once it is allowed, without a retry.
    assert {name for name, code in allowed.items() if code == "ok"} == good_ones | {"parent", "link", "linked folder"}


def test_a_model_of_a_row_is_the_run_s_or_below_a_given_folder(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    rows = [row("mine", video_uri="ok.mp4", model="tiny"), row("hub", video_uri="ok.mp4", model="somebody/model")]
    rows.append(row("path", video_uri="ok.mp4", model="/etc"))
    assert outcomes(tmp_path, rows) == {"mine": "ok", "hub": "model_not_allowed", "path": "model_not_allowed"}


def test_limits_hold_before_decoding(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "ok.mp4").write_bytes(good)
    for change, code in (
        ({"max_bytes": 1000}, "too_large"),
        ({"max_pixels": 64 * 48 - 1}, "too_large"),
        ({"max_duration_s": 0.9}, "too_long"),
        ({"max_frames": 23}, "too_long"),
        ({"max_streams": 1}, "too_many_streams"),
    ):
        folder = tmp_path / next(iter(change))
        folder.mkdir()
        (folder / "ok.mp4").write_bytes(good)
        assert outcomes(folder, [row("ok.mp4")], Options(media=MediaLimits.model_validate(change))) == {"ok.mp4": code}


def test_a_refused_row_is_not_looked_at(tmp_path: Path, good: bytes) -> None:
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(good)
    (tmp_path / "in").mkdir()
    batch = open_rows(tmp_path / "in", [row("a", video_uri=str(outside))])
    [work] = batch.works
    assert work.refused is not None and work.fingerprints == {}
    # What was refused when it was planned stays so: it has no identity to be done under.
    allowed = replace(work, roots=replace(work.roots, local=(str(tmp_path),)))
    with pytest.raises(ClipError, match="not_allowed"):
        prepare(allowed, MaskModels())
    # A link that is changed after the run began is followed anew by each step.
    assert prepare(replace(allowed, refused=None, fingerprints={"video_uri": "1"}), MaskModels()).num_frames == 24


def test_a_link_that_leads_elsewhere_by_now_is_refused_by_every_step(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "in").mkdir()
    link = tmp_path / "in" / "clip.mp4"
    for place in (tmp_path / "in" / "good.mp4", tmp_path / "outside.mp4"):
        place.write_bytes(good)
    link.symlink_to("good.mp4")
    [work] = open_rows(tmp_path / "in", [row("a", video_uri="clip.mp4", task="inpainting", prompt="moss")], KEEPS).works
    plan = prepare(work, MaskModels())
    link.unlink()
    link.symlink_to(tmp_path / "outside.mp4")
    steps: tuple[Callable[[], object], ...] = (
        lambda: build(work, plan, plan.windows[0]),
        lambda: stitch(work, plan),
        lambda: keep(work, plan),
    )
    for step in steps:
        with pytest.raises(ClipError, match="not_allowed"):
            step()
    assert not (tmp_path / "in" / "out" / "videos").exists()


def test_a_refused_row_keeps_its_error_and_its_keys_on_the_way_to_a_worker(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ok.mp4").write_bytes(good)
    rows = [row("bad", video_uri=str(tmp_path / "no.mp4")), row("good", video_uri="ok.mp4")]
    refused, admitted = open_rows(tmp_path / "in", rows).works
    assert admitted.refused is None
    sent = pickle.loads(pickle.dumps(refused))
    assert sent.refused is not None and str(sent.refused) == str(refused.refused)
    assert (sent.prep_key, sent.clip_key) == (refused.prep_key, refused.clip_key)
    otherwise = replace(refused, refused=ClipError("model_not_allowed", "another reason"))
    assert otherwise.prep_key != refused.prep_key and replace(refused, refused=None).prep_key != refused.prep_key
