"""Mask sources that are no masks are refused by name; lossy, soft-edged and odd but clear masks are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.mask_requests import request_of
from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.manifest.job import Job, Protect
from vace_batch.masks.clip import clip_masks
from vace_batch.masks.import_files import read_masks

SIZE = Size(160, 96)
COUNT = 5
Pixels = NDArray[np.uint8]
Forms = dict[str, Callable[[Path, Sequence[Pixels]], str]]


def gray_frames(inside: int = 255, outside: int = 0) -> list[Pixels]:
    frames = []
    for index in range(COUNT):
        gray = np.full((SIZE.height, SIZE.width), outside, np.uint8)
        cv2.circle(gray, (40 + 8 * index, 48), 20, inside, -1, cv2.LINE_AA)
        frames.append(gray)
    return frames


def coloured(colour: tuple[int, int, int]) -> list[Pixels]:
    return [np.stack([gray // 255 * value for value in colour], axis=2).astype(np.uint8) for gray in gray_frames()]


def with_alpha(level: int) -> list[Pixels]:
    """The matte in the alpha channel, one level as colour."""
    return [np.dstack([np.full((*gray.shape, 3), level, np.uint8), gray]) for gray in gray_frames()]


def gray_film() -> list[Pixels]:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE.height, SIZE.width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    scaled = np.clip((smooth - smooth.mean()) * 8 + 128, 0, 255).astype(np.uint8)
    return [np.roll(scaled, index, axis=1) for index in range(COUNT)]


def labels(levels: Sequence[int]) -> list[Pixels]:
    """Objects as levels of gray."""
    frames = gray_frames(levels[0])
    for number, level in enumerate(levels[1:]):
        for gray in frames:
            gray[10:40, 90 + 34 * number : 120 + 34 * number] = level
    return frames


def with_void_border() -> list[Pixels]:
    """An object of label 1 with a white border, as VOC and DAVIS write it."""
    frames = gray_frames(1)
    for index, gray in enumerate(frames):
        cv2.circle(gray, (40 + 8 * index, 48), 20, 255, 2)
    return frames


KINDS: dict[str, tuple[str, list[Pixels]]] = {
    "red": ("mask_coloured", coloured((255, 0, 0))),
    "dark green": ("mask_coloured", coloured((0, 64, 0))),
    "yellow": ("mask_coloured", coloured((255, 255, 0))),
    "ones": ("mask_too_dark", gray_frames(1)),
    "up to 100": ("mask_too_dark", gray_frames(100)),
    "black under alpha": ("mask_transparent", with_alpha(0)),
    "white under alpha": ("mask_transparent", with_alpha(255)),
    "film": ("mask_levels", gray_film()),
    "labels": ("mask_levels", labels((255, 130))),
    "dim": ("mask_levels", gray_frames(160)),
    "void border": ("mask_levels", with_void_border()),
}


def write_film(path: Path, frames: Sequence[Pixels]) -> str:
    """Write a lossless film in the pixel format of the arrays."""
    channels = 1 if frames[0].ndim == 2 else frames[0].shape[2]
    source, stored, codec = {1: ("gray", "gray", "ffv1"), 3: ("rgb24", "bgr0", "ffv1"), 4: ("rgba", "argb", "qtrle")}[
        channels
    ]
    path = path.with_suffix(".mov" if codec == "qtrle" else ".mkv")
    return encode(path, frames, codec, stored, source)


def encode(path: Path, frames: Sequence[Pixels], codec: str, pix_fmt: str, source: str = "gray", **options: str) -> str:
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream(codec, rate=25, width=SIZE.width, height=SIZE.height)
        stream.pix_fmt = pix_fmt
        stream.options = options
        for frame in frames:
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(frame, source)))
        sink.mux(stream.encode())
    return str(path)


def write_folder(path: Path, frames: Sequence[Pixels]) -> str:
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index}.png")
    return str(path)


def write_picture(path: Path, frames: Sequence[Pixels]) -> str:
    Image.fromarray(frames[0]).save(path.with_suffix(".png"))
    return str(path.with_suffix(".png"))


FORMS: Forms = {"film": write_film, "folder": write_folder, "picture": write_picture}


def job_of(**fields: Any) -> Job:
    return Job(job_id="j", video_uri="v.mkv", task="removal", **fields)


def used(job: Job) -> tuple[list[Any], list[str]]:
    request = request_of(job, "none", SIZE, COUNT)
    return list(clip_masks(request)), request.notes.doubts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_mask_is_refused_by_name(tmp_path: Path, form: str, kind: str) -> None:
    code, frames = KINDS[kind]
    path = FORMS[form](tmp_path / "mask", frames)
    for job, column in (
        (job_of(mask_uri=path), "mask_uri: "),
        (job_of(protect=Protect(mask_uri=path)), "protect.mask_uri: "),
    ):
        with pytest.raises(ClipError) as caught:
            used(job)
        assert caught.value.code == code and caught.value.reason.startswith(column), caught.value


def test_the_reason_shows_what_was_seen(tmp_path: Path) -> None:
    seen = {"red": "red 255, green 0, blue 0", "ones": "is 1 of 255", "black under alpha": "alpha 0", "labels": "130"}
    for kind, text in seen.items():
        path = write_film(tmp_path / kind, KINDS[kind][1])
        with pytest.raises(ClipError, match=text):
            list(read_masks(path, SIZE, COUNT))


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt", "options"),
    [
        (".mp4", "libx264", "yuv420p", {"crf": "23"}),
        (".mp4", "libx264", "yuv420p", {"crf": "40"}),
        (".mp4", "mpeg4", "yuv420p", {"qmin": "20", "qmax": "31"}),
        (".mov", "mjpeg", "yuvj420p", {"qmin": "20", "qmax": "31"}),
        (".webm", "libvpx-vp9", "yuv420p", {"crf": "50", "b": "0", "cpu-used": "8"}),
        (".mkv", "ffv1", "gray16le", {}),
        (".mkv", "ffv1", "yuva420p", {}),
        (".mov", "prores_ks", "yuva444p10le", {}),
    ],
)
@pytest.mark.parametrize("limited", [False, True])
def test_lossy_deep_and_opaque_masks_are_read(
    tmp_path: Path, suffix: str, codec: str, pix_fmt: str, options: dict[str, str], limited: bool
) -> None:
    frames = gray_frames(235, 16) if limited else gray_frames()
    path = encode(tmp_path / f"mask{suffix}", frames, codec, pix_fmt, **options)
    for job in (job_of(mask_uri=path), job_of(protect=Protect(mask_uri=path))):
        assert used(job)[1] == []
    for mask, gray in zip(read_masks(path, SIZE, COUNT), frames, strict=True):
        assert (mask.full(SIZE) ^ (gray > 127)).mean() < 0.01


def test_pictures_of_two_levels_are_read_however_they_are_stored(tmp_path: Path) -> None:
    gray = gray_frames()[0]
    bits = gray > 127
    pictures = {
        "bits.png": Image.fromarray(bits),
        "deep.png": Image.fromarray(bits.astype(np.uint16) * np.uint16(65535)),
        "palette.png": Image.fromarray(bits.astype(np.uint8)),
        "rgb.png": Image.fromarray(np.stack([gray] * 3, axis=2)),
        "mask.jpg": Image.fromarray(gray),
        "opaque.png": Image.fromarray(np.dstack([gray, gray, gray, np.full_like(gray, 255)])),
    }
    pictures["palette.png"].putpalette([0, 0, 0, 255, 255, 255])
    for name, image in pictures.items():
        image.save(tmp_path / name)
        (mask,) = read_masks(str(tmp_path / name), SIZE, 1)
        assert (mask.full(SIZE) ^ bits).mean() < 0.01, name


def test_a_palette_of_ones_and_a_deep_picture_of_ones_are_refused(tmp_path: Path) -> None:
    bits = (gray_frames()[0] > 127).astype(np.uint8)
    palette = Image.fromarray(bits)
    palette.putpalette([0, 0, 0, 1, 1, 1])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(bits.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("palette.png", "deep.png"):
        with pytest.raises(ClipError) as caught:
            list(read_masks(str(tmp_path / name), SIZE, 1))
        assert caught.value.code == "mask_too_dark"


def test_a_picture_of_many_pages_is_no_mask_of_one_frame(tmp_path: Path) -> None:
    first, *rest = [Image.fromarray(gray) for gray in gray_frames()]
    first.save(tmp_path / "mask.tiff", save_all=True, append_images=rest)
    with pytest.raises(ClipError, match="5 pictures"):
        list(read_masks(str(tmp_path / "mask.tiff"), SIZE, COUNT))


def test_the_soft_edge_of_an_object_that_leaves_is_not_too_dark(tmp_path: Path) -> None:
    frames = gray_frames()
    frames[-1][:] = 0
    frames[-1][30:60, -1] = 90
    path = write_folder(tmp_path / "masks", frames)
    assert [mask.index for mask in read_masks(path, SIZE, COUNT)] == [0, 1, 2, 3]


@pytest.mark.parametrize("form", FORMS)
def test_a_soft_mask_is_for_review_and_protects_nothing(tmp_path: Path, form: str) -> None:
    frames = [cv2.GaussianBlur(gray, (0, 0), 8) for gray in gray_frames()]
    path = FORMS[form](tmp_path / "mask", np.asarray(np.clip(np.multiply(frames, 1.3), 0, 255), np.uint8))
    masks, doubts = used(job_of(mask_uri=path))
    assert len(masks) == COUNT and doubts[0].startswith("soft_mask: mask_uri: ")
    with pytest.raises(ClipError) as caught:
        used(job_of(protect=Protect(mask_uri=path)))
    assert caught.value.code == "mask_levels"


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_of_nearly_everything_leaves_a_removal_nothing(tmp_path: Path, form: str) -> None:
    frames = [np.full((SIZE.height, SIZE.width), 255, np.uint8) for _ in range(COUNT)]
    for frame in frames:
        frame[:4, :40] = 0
    path = FORMS[form](tmp_path / "mask", frames)
    with pytest.raises(ClipError, match="masks 99% of the picture over 5 masked frames") as caught:
        used(job_of(mask_uri=path))
    assert caught.value.code == "mask_covers_all"
    masks, doubts = used(replace(job_of(mask_uri=path), task="inpainting"))
    assert len(masks) == COUNT and "mask_covers_all" in doubts[0]
    assert used(job_of(protect=Protect(mask_uri=path)))[1] == [], "the rest may change"
    whole = FORMS[form](tmp_path / "whole", [np.full_like(frame, 255) for frame in frames])
    with pytest.raises(ClipError) as caught:
        used(job_of(protect=Protect(mask_uri=whole)))
    assert caught.value.code == "mask_covers_all"


@pytest.mark.parametrize("form", FORMS)
def test_a_black_mask_finds_nothing_and_may_not_protect(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path / "mask", gray_frames(0))
    assert used(job_of(mask_uri=path)) == ([], [])
    with pytest.raises(ClipError, match=r"protect\.mask_uri: masks nothing in 5 frames") as caught:
        used(job_of(protect=Protect(mask_uri=path)))
    assert caught.value.code == "mask_empty"
