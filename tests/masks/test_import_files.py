from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vace_batch.errors import ClipError
from vace_batch.geometry import Box, Size
from vace_batch.masks.import_files import read_masks

SIZE = Size(64, 48)


def frames(count: int = 6, white: int = 255) -> list[np.ndarray]:
    made = np.zeros((count, 48, 64), np.uint8)
    for index in range(count):
        made[index, 10:20, 5 * index : 5 * index + 8] = white
    return list(made)


def write_video(path: Path, grays: Iterable[np.ndarray], codec: str = "ffv1", pix_fmt: str = "gray") -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE.width, SIZE.height, pix_fmt
        for gray in grays:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="gray")))
        container.mux(stream.encode())
    return str(path)


def write_folder(folder: Path, grays: Iterable[np.ndarray], name: str = "{}.png") -> str:
    folder.mkdir()
    for index, gray in enumerate(grays):
        Image.fromarray(gray).save(folder / name.format(index))
    return str(folder)


def code_of(path: str, num_frames: int = 6, size: Size = SIZE) -> str:
    with pytest.raises(ClipError) as error:
        list(read_masks(path, size, num_frames))
    return error.value.code


def test_a_lossless_video_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = write_video(tmp_path / "mask.mkv", frames())
    masks = list(read_masks(path, SIZE, 6))
    assert [mask.index for mask in masks] == list(range(6))
    for mask, gray in zip(masks, frames(), strict=True):
        assert np.array_equal(mask.full(SIZE), gray == 255)


def test_a_lossy_limited_range_video_is_a_mask_too(tmp_path: Path) -> None:
    path = write_video(tmp_path / "mask.mp4", frames(), "libx264", "yuv420p")
    for mask, gray in zip(read_masks(path, SIZE, 6), frames(), strict=True):
        assert (mask.full(SIZE) ^ (gray == 255)).mean() < 0.01


def test_a_range_and_empty_frames(tmp_path: Path) -> None:
    grays = frames()
    grays[3][:] = 0
    for path in (write_video(tmp_path / "mask.mkv", grays), write_folder(tmp_path / "masks", grays)):
        masks = list(read_masks(path, SIZE, 6, 2, 5))
        assert [mask.index for mask in masks] == [2, 4]
        assert masks[1].box == Box(20, 10, 8, 10)


def test_a_folder_is_in_natural_order(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "masks", frames(12), "mask_{}.png")
    (tmp_path / "masks" / "notes.txt").write_text("not a picture")
    assert [mask.box.x for mask in read_masks(path, SIZE, 12)] == [5 * index for index in range(12)]


def test_one_picture_holds_for_every_frame(tmp_path: Path) -> None:
    Image.fromarray(frames()[1]).save(tmp_path / "mask.png")
    masks = list(read_masks(str(tmp_path / "mask.png"), SIZE, 6, 1, 6))
    assert [(mask.index, mask.box) for mask in masks] == [(index, Box(5, 10, 8, 10)) for index in range(1, 6)]


def test_nothing_masked_yields_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "mask.mkv", frames(white=0))
    assert list(read_masks(path, SIZE, 6)) == []


@pytest.mark.parametrize("count", [5, 9])
def test_a_mask_of_another_length_is_refused(tmp_path: Path, count: int) -> None:
    assert code_of(write_video(tmp_path / "mask.mkv", frames(count))) == "mask_length_mismatch"
    assert code_of(write_folder(tmp_path / "masks", frames(count))) == "mask_length_mismatch"


def test_the_length_counts_even_where_the_range_is_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "mask.mkv", frames(5))
    with pytest.raises(ClipError, match="6 frames, the mask has 5"):
        list(read_masks(path, SIZE, 6, 0, 3))


def test_a_mask_of_another_size_says_both(tmp_path: Path) -> None:
    path = write_video(tmp_path / "mask.mkv", frames())
    with pytest.raises(ClipError, match="64x48.*80x48") as error:
        list(read_masks(path, Size(80, 48), 6))
    assert error.value.code == "mask_size_mismatch"


def test_a_mask_of_zeros_and_ones_is_a_slip(tmp_path: Path) -> None:
    assert code_of(write_folder(tmp_path / "masks", frames(white=1))) == "mask_too_dark"


def test_transparency_is_not_guessed_at(tmp_path: Path) -> None:
    rgba = np.full((48, 64, 4), 255, np.uint8)
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    assert len(list(read_masks(str(tmp_path / "opaque.png"), SIZE, 2))) == 2
    rgba[:20, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    assert code_of(str(tmp_path / "clear.png")) == "mask_transparent"


def test_what_is_not_there_and_what_is_no_picture(tmp_path: Path) -> None:
    assert code_of(str(tmp_path / "none.mkv")) == "mask_not_found"
    (tmp_path / "text.png").write_text("not a picture")
    assert code_of(str(tmp_path / "text.png")) == "not_an_image"


@pytest.mark.parametrize(
    "content", ["", "{", "7", "{}", '{"annotations": [{"segmentation": 1}], "images": []}', '[{"size": [4, 4]}]']
)
def test_what_is_no_mask_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "masks.json").write_text(content)
    (tmp_path / "masks.parquet").write_text(content)
    for name in ("masks.json", "masks.parquet"):
        with pytest.raises(ClipError) as error:
            list(read_masks(str(tmp_path / name), SIZE, 1))
        assert error.value.code in ("bad_mask_file", "mask_length_mismatch")
