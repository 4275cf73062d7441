from __future__ import annotations

from fractions import Fraction
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vace_batch.demo import clips, scenery
from vace_batch.geometry import Box, Size
from vace_batch.ledger.summary import Summary
from vace_batch.manifest.reader import read_manifest
from vace_batch.report.contact_sheet import THUMB_WIDTH_PX, SheetRow, contact_sheet, evenly_spaced, write_sheet
from vace_batch.vace.training.styles import STYLES
from vace_batch.video.probe import probe
from vace_batch.video.reader import read_frames
from vace_batch.video.shots import scan

PICTURES = ("rocket.jpg", "brick.png", "grass.png", "horse.png", "chelsea.png")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_demo(tmp_path_factory.mktemp("demo"))


def test_the_pictures_are_in_the_wheel_itself() -> None:
    shipped = {file.name for file in files("scikit-image") or () if file.parent.as_posix() == "skimage/data"}
    assert set(PICTURES) <= shipped
    assert all((clips.pictures_folder() / name).is_file() for name in PICTURES)


def test_the_manifest_shows_every_kind_of_work(manifest: Path) -> None:
    ball, balloon, horse, subtitles, cat, planet = read_manifest(manifest).jobs
    assert (ball.task, ball.targets, ball.detector, ball.background) == ("removal", ("ball",), "demo", "auto")
    assert (balloon.task, balloon.background) == (horse.task, "off") == ("removal", "off")
    assert [job.mask_uri and Path(job.mask_uri).name for job in (balloon, horse)] == ["balloon-masks", "horse-masks"]
    assert (subtitles.task, subtitles.targets) == ("removal", ("@text",))
    assert (cat.task, cat.control) == ("restyle", "gray") and any(style in cat.prompt for style in STYLES)
    assert planet.task == "outpainting"
    assert {job.job_id for job in read_manifest(manifest).jobs} == set(clips.CAPTIONS)


@pytest.mark.parametrize(
    ("name", "rate", "size"),
    [
        ("ball", Fraction(25), clips.SIZE),
        ("balloon", Fraction(25), clips.SIZE),
        ("horse", Fraction(24), clips.SIZE),
        ("rocket", Fraction(25), clips.SIZE),
        ("cat", Fraction(24000, 1001), clips.LARGER),
        ("planet", Fraction(25), Size(288, 216)),
    ],
)
def test_each_clip_has_its_rate_its_sound_and_one_shot(manifest: Path, name: str, rate: Fraction, size: Size) -> None:
    path = str(manifest.with_name(f"{name}.mp4"))
    info, found = probe(path), scan(path)
    assert (info.size, info.average_rate, info.num_audio) == (size, rate, 1)
    assert (found.num_frames, found.cuts) == (clips.NUM_FRAMES, ())
    assert manifest.with_name(f"{name}.mp4").stat().st_size < 1_000_000


def test_subtitles_are_where_and_when_they_say() -> None:
    for index, frame in enumerate(clips.rocket_with_subtitles()):
        letters = frame.object_HW > 0.9
        assert letters.any() == any(index in frames for frames, _ in clips.SUBTITLES)
        assert not letters[:170].any() and (not letters.any() or frame.picture_HW3[letters].std() > 80)


def test_skies_differ_by_their_seed_alone_and_join_themselves() -> None:
    one, again, other = (scenery.roughness(Size(96, 48), seed, fall=1.4) for seed in (1, 1, 2))
    assert (one == again).all() and np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.5
    assert abs(one.mean()) < 1e-5 and abs(one.std() - 1) < 1e-4
    step = np.abs(np.diff(scenery.drifted(one, 40), axis=1)).max()
    assert step <= np.abs(np.diff(np.concatenate([one, one[:, :1]], axis=1), axis=1)).max() + 1e-5


def test_the_masks_cover_the_horse_in_every_frame_and_nothing_else(manifest: Path) -> None:
    background = np.median([frame.rgb() for frame in read_frames(str(manifest.with_name("horse.mp4")))], axis=0)
    masks = sorted(manifest.with_name("horse-masks").iterdir())
    assert len(masks) == clips.NUM_FRAMES
    for frame, mask in zip(read_frames(str(manifest.with_name("horse.mp4"))), masks, strict=True):
        inside = np.asarray(Image.open(mask)) > 127
        different = np.abs(frame.rgb().astype(float) - background).max(axis=2)
        assert inside.sum() > 4000
        assert np.median(different[inside]) > 40
        assert np.percentile(different[~inside], 99) < 30


def test_keyframed_boxes_hold_the_ball_between_the_keyframes_too() -> None:
    objects = [frame.object_HW for frame in clips.ball_over_the_mountains()]
    keys = clips.keyframed_boxes(objects)
    frames = [key["frame"] for key in keys]
    assert frames[0] == 0 and frames[-1] == clips.NUM_FRAMES - 1
    for index, covered in enumerate(objects):
        box = [np.interp(index, frames, [key[side] for key in keys]) for side in ("x", "y", "width", "height")]
        rows, columns = np.nonzero(covered)
        assert box[0] <= columns.min() and columns.max() < box[0] + box[2]
        assert box[1] <= rows.min() and rows.max() < box[1] + box[3]


def test_a_second_run_leaves_every_file_as_it_is(manifest: Path) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in manifest.parent.rglob("*")}

    before = state()
    assert clips.write_demo(manifest.parent) == manifest
    assert state() == before


def test_an_interrupted_run_is_made_again(tmp_path: Path) -> None:
    first = clips.write_demo(tmp_path)
    first.unlink()
    (tmp_path / "cat.mp4").write_bytes(b"half")
    clips.write_demo(tmp_path)
    assert scan(str(tmp_path / "cat.mp4")).num_frames == clips.NUM_FRAMES


def picture(value: int) -> np.ndarray:
    """A flat colour that no letter has: red by `value`, no green."""
    return np.full((36, 64, 3), (value, 0, 255), np.uint8)


def test_the_sheet_shows_before_over_after_in_each_row(tmp_path: Path) -> None:
    rows = [
        SheetRow(label="a", note="by box", before=[picture(200), picture(210)], after=[picture(50), picture(60)]),
        SheetRow(label="b", before=[picture(220)], after=[]),
    ]
    path = contact_sheet(rows, tmp_path / "deep" / "sheet.png", note="five frames a clip")
    sheet = np.asarray(Image.open(path).convert("RGB"))
    tops = {
        value: int(np.argwhere((sheet == (value, 0, 255)).all(axis=2))[:, 0].min()) for value in (200, 210, 50, 60, 220)
    }
    assert tops[200] == tops[210] < tops[50] == tops[60] < tops[220]
    assert sorted(path.parent.iterdir()) == [path]


def test_what_became_wider_is_shown_at_the_same_scale(tmp_path: Path) -> None:
    row = SheetRow(label="a", share=0.75, before=[picture(200)], after=[picture(50)])
    sheet = np.asarray(Image.open(contact_sheet([row], tmp_path / "sheet.png")).convert("RGB"))
    widths = [int((sheet == (value, 0, 255)).all(axis=2).any(axis=0).sum()) for value in (200, 50)]
    assert widths == [round(0.75 * THUMB_WIDTH_PX), THUMB_WIDTH_PX]


def test_the_sheet_of_a_run_shows_outputs_and_says_what_has_none(manifest: Path, tmp_path: Path) -> None:
    rows = (
        {"job_id": "ball-by-class", "status": "done", "output_uri": str(manifest.with_name("ball.mp4"))},
        {"job_id": "horse-by-mask", "status": "failed", "output_uri": None, "reason": "no such mask"},
    )
    summary = Summary(out="", planned=6, done=1, failed=1, skipped=0, pending=4, windows=0, jobs=rows)
    chosen = [job for job in read_manifest(manifest).jobs if job.job_id in ("ball-by-class", "horse-by-mask")]
    path = write_sheet(chosen, summary, tmp_path / "sheet.png", captions=clips.CAPTIONS)
    with Image.open(path) as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    thumb_height = round(THUMB_WIDTH_PX * clips.SIZE.height / clips.SIZE.width)
    drawn = (np.abs(sheet - sheet[0, 0]).max(axis=2) > 12).sum(axis=1) > 1000
    assert 2.9 * thumb_height < drawn.sum() < 3.2 * thumb_height


def test_a_sheet_with_unequal_strips_or_nothing_to_show_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a: expected 1 frames after, as before, got 2"):
        SheetRow(label="a", before=[picture(1)], after=[picture(1), picture(2)])
    with pytest.raises(ValueError, match="expected at least one row"):
        contact_sheet([], tmp_path / "sheet.png")


def test_sheet_frames_are_spread_over_the_clip() -> None:
    assert evenly_spaced(49, 5) == [4, 14, 24, 34, 44]
    assert evenly_spaced(2, 5) == [0, 1]
    assert evenly_spaced(1, 3) == [0]
    with pytest.raises(ValueError, match="at least 1"):
        evenly_spaced(0, 5)


def test_the_box_keys_stay_inside_the_frame() -> None:
    covered = np.zeros((clips.SIZE.height, clips.SIZE.width), np.float32)
    covered[:3, -4:] = 1
    (key,) = clips.keyframed_boxes([covered])
    inside = Box(int(key["x"]), int(key["y"]), int(key["width"]), int(key["height"])).clip(clips.SIZE)
    assert inside is not None and (inside.width, inside.height) == (key["width"], key["height"])
