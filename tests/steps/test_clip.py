"""Test that each manifest column enters exactly the clip and window keys that the column decides."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.support.media_files import Media, make
from tests.support.prepared_clips import Prepare
from vace_batch.batch.identity import works_of
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import BoxKey, Dilation, Expand, Extend, Job, LoraRef, Pick, PointKey, Protect, Sampling
from vace_batch.options import Options
from vace_batch.planning.windows import Region, Window
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import PlannedWindow

BOX = BoxKey(x=16, y=16, width=24, height=24)
OTHER: dict[str, Any] = {
    "job_id": "k",
    "task": "inpainting",
    "row": 3,
    "targets": ("car",),
    "pick": Pick(largest=True),
    "boxes": (BOX,),
    "points": (PointKey(x=1, y=2),),
    "protect": Protect(boxes=(BOX,)),
    "detector": "other.pt",
    "segmenter": "other.pt",
    "mask_shape": "hull",
    "mask_shadow": "off",
    "background": "off",
    "dilate": Dilation(px=3),
    "prompt": "a street",
    "negative_prompt": "a car",
    "reference_boxes": (BOX,),
    "reference_mode": "face",
    "reference_background": "white",
    "control": "gray",
    "control_weights": "other.pt",
    "expand": Expand(left=0.5),
    "extend": Extend(seconds=1.0),
    "compose": "swap",
    "start_s": 0.5,
    "end_s": 0.75,
    "seed": 7,
    "seed_scope": "shot",
    "priority": 9,
    "preset": "fast",
    "model": "other",
    "sampling": Sampling(flow_shift=2.0),
    "output_uri": "other.mp4",
    "expect_found": True,
}
BY_CONTENT = {
    "video_uri": "elsewhere.mp4",
    "mask_uri": "elsewhere.png",
    "reference_uris": ("elsewhere.png",),
    "reference_mask_uris": ("elsewhere.png",),
    "loras": (LoraRef(uri="elsewhere.safetensors"),),
}
"""Columns that count by what they point to: another name alone is the same work."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> ClipWork:
    folder = tmp_path_factory.mktemp("clip")
    path = folder / "clip.mp4"
    make(path, Media(width=96, height=64, num_frames=8))
    [work] = works_of(
        [Job(job_id="j", video_uri=str(path), task="removal")], str(folder / "out"), Options(), str(folder)
    )
    assert work.refused is None
    return work


def keys(work: ClipWork) -> dict[str, str]:
    window = Window(region=0, start=0, stop=5, num_frames=5, box=Box(0, 0, 64, 64))
    planned = PlannedWindow(window=window, start_pts=0, known_digest="0")
    region = Region(shot=0, start=0, stop=5, crop=Size(64, 64), size=Size(64, 64))
    return {"prep": work.prep_key, "window": work.window_key(planned, region)}


@pytest.mark.parametrize("column", fields(Job), ids=lambda column: column.name)
def test_a_column_changes_the_identities_that_it_decides_and_no_other(column: Any, work: ClipWork) -> None:
    other = OTHER[column.name] if column.name in OTHER else BY_CONTENT[column.name]
    before, after = keys(work), keys(replace(work, job=replace(work.job, **{column.name: other})))
    changed = {name for name in before if before[name] != after[name]}
    decided = {"nothing": set(), "masks": {"prep"}, "plan": {"prep", "window"}, "pixels": {"window"}}
    assert changed == (set() if column.name in BY_CONTENT else decided[column.metadata["decides"]])


def test_a_clip_that_is_expected_to_be_found_has_an_identity_of_its_own(work: ClipWork) -> None:
    def key(in_row: bool | None, in_run: bool) -> str:
        job, options = replace(work.job, expect_found=in_row), work.options.model_copy(update={"expect_found": in_run})
        return replace(work, job=job, options=options).clip_key

    assert key(None, False) == key(False, False) == key(False, True) == work.clip_key
    assert key(True, False) == key(None, True) == key(True, True) != work.clip_key


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("video_uri", {"prep", "window"}),
        ("mask_uri", {"prep"}),
        ("protect.mask_uri", {"prep"}),
        ("reference_uris.0", {"prep", "window"}),
        ("reference_mask_uris.0", {"prep", "window"}),
    ],
)
def test_a_file_changes_the_identities_by_its_content(name: str, changed: set[str], work: ClipWork) -> None:
    job = replace(
        work.job,
        mask_uri="m.png",
        protect=Protect(mask_uri="p.png"),
        reference_uris=("r.png",),
        reference_mask_uris=("s.png",),
    )
    with_files = replace(work, job=job, fingerprints={file.fingerprint_name: "1" for file in job.files()})
    before, after = keys(with_files), keys(replace(with_files, fingerprints=with_files.fingerprints | {name: "2"}))
    assert {key for key in before if before[key] != after[key]} == changed


def test_the_programme_shares_a_seed_by_prompt_and_references(work: ClipWork) -> None:
    job = replace(work.job, seed_scope="programme", prompt="a street", reference_uris=("r.png",))
    window = Window(region=0, start=0, stop=5, num_frames=5, box=Box(0, 0, 64, 64))
    planned = PlannedWindow(window=window, start_pts=0, known_digest="0")
    seeds = [
        replace(work, job=job, fingerprints={"video_uri": video, "reference_uris.0": reference}).seed(planned)
        for video, reference in (("1", "a"), ("2", "a"), ("1", "b"))
    ]
    assert seeds[0] == seeds[1] != seeds[2]


def test_seeds_are_shared_as_far_as_their_scope_says(prepared: Prepare) -> None:
    media = Media(width=96, height=64, num_frames=60, cut_at=45)
    seeds = {}
    for scope in ("window", "shot", "programme"):
        work, plan = prepared("restyle", media, control="gray", seed_scope=scope)
        seeds[scope] = [work.seed(planned) for planned in plan.windows]
    assert [len(set(found)) for found in seeds.values()] == [3, 2, 1]
    work, plan = prepared("restyle", Media(width=96, height=64), control="gray", seed_scope="programme")
    assert work.seed(plan.windows[0]) == seeds["programme"][0], "another video of the same programme"


def test_keys_are_hashed_once(prepared: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    work, _ = prepared("restyle", control="gray")
    fresh = replace(work, job=replace(work.job, prompt="y"))
    keys = (fresh.prep_key, fresh.clip_key)
    monkeypatch.setattr("vace_batch.steps.clip.make_key", None)
    assert (fresh.prep_key, fresh.clip_key) == keys and fresh.clip_key != work.clip_key
