"""Read masks made elsewhere: a video, a picture, a folder with a picture a frame, COCO run-length JSON, or Parquet.

In videos and pictures white (above 127) is the mask.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks.coco import read_coco
from vace_batch.masks.levels import MASK_COLUMN, THRESHOLD, MaskLevels, has_interior
from vace_batch.masks.store import Bits, FrameMask, MaskReader, make_mask
from vace_batch.video.probe import MAX_PIXELS, open_source, video_stream
from vace_batch.video.read_ahead import CHUNK_FRAMES
from vace_batch.video.reader import read_frames, read_image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def read_masks(
    path: str,
    size: Size,
    num_frames: int,
    start: int = 0,
    stop: int | None = None,
    levels: MaskLevels | None = None,
) -> Iterator[FrameMask]:
    """Yield the non-empty masks of frames start..stop-1 of a video of `size` and `num_frames`, from a local file.

    A video or folder holds one mask for each frame of the video, from its first; a single picture is the mask of every
    frame. A mask video's length and levels are known at its end, so their errors may come after the last mask. `levels`
    gets the levels of pictures and counts the masks.

    Raises:
        ClipError: `mask_not_found`, `mask_size_mismatch`, `mask_length_mismatch`, `mask_too_dark`, `mask_transparent`,
            `mask_coloured`, `mask_levels`, `bad_mask_file`, and errors of reading a video or picture.
    """
    stop = num_frames if stop is None else stop
    levels = MaskLevels() if levels is None else levels
    try:
        for mask in _read(path, size, num_frames, (start, stop), levels):
            levels.coverage.add(mask, size)
            yield mask
    except ClipError as error:
        if not error.reason.startswith(f"{MASK_COLUMN}:"):
            raise
        raise ClipError(error.code, levels.column + error.reason.removeprefix(MASK_COLUMN)) from error
    levels.finish()


def _read(
    path: str, size: Size, num_frames: int, frame_range: tuple[int, int], levels: MaskLevels
) -> Iterator[FrameMask]:
    start, stop = frame_range
    source = Path(path)
    if not source.exists():
        raise ClipError("mask_not_found", f"mask_uri: no such file or folder: {path}")
    if source.suffix.lower() == ".parquet":
        yield from _from_parquet(source, size, num_frames, start, stop)
        return
    last_bits: Bits | None = None
    mask: FrameMask | None = None
    for index, bits in _bits(source, size, num_frames, frame_range, levels):
        height, width = bits.shape
        if (width, height) != (size.width, size.height):
            raise ClipError("mask_size_mismatch", f"mask_uri: frame {index} is {width}x{height}, the video is {size}")
        if bits is not last_bits:  # a still picture is the same array in each frame: it is made tight once
            mask = make_mask(index, bits)
            last_bits = bits
        if mask is not None:
            yield FrameMask(index=index, box=mask.box, bits=mask.bits)


def _bits(
    source: Path, size: Size, num_frames: int, frame_range: tuple[int, int], levels: MaskLevels
) -> Iterable[tuple[int, Bits]]:
    """Yield frame number and mask (H, W), at the file's size, of any form but Parquet."""
    start, stop = frame_range
    suffix = source.suffix.lower()
    if suffix == ".json":
        return _from_coco(source, size, num_frames, start, stop)
    if source.is_dir():
        return _from_folder(source, num_frames, frame_range, levels)
    if suffix in IMAGE_SUFFIXES:
        return zip(range(start, stop), repeat(read_mask_picture(source, levels) > THRESHOLD), strict=False)
    return _from_video(str(source), num_frames, frame_range, levels)


def _from_video(
    path: str, num_frames: int, frame_range: tuple[int, int], levels: MaskLevels
) -> Iterator[tuple[int, Bits]]:
    with open_source(path) as container:
        # VP8 and VP9 keep transparency beside the picture, and libav drops it.
        if video_stream(container, path).metadata.get("alpha_mode") == "1":
            raise ClipError(
                "mask_transparent", levels.named(f"{Path(path).name} has transparency, which cannot be read")
            )
    # One frame too many is an error already; the rest of a longer file is not decoded.
    count = 0
    for frame in read_frames(path, 0, num_frames + 1):
        gray = levels.gray_of(frame)
        if frame_range[0] <= count < frame_range[1]:
            yield count, gray > THRESHOLD
        count += 1
    if count != num_frames:
        length = f"more than {num_frames}" if count > num_frames else str(count)
        raise ClipError("mask_length_mismatch", f"mask_uri: the video has {num_frames} frames, the mask has {length}")


def _from_folder(
    folder: Path, num_frames: int, frame_range: tuple[int, int], levels: MaskLevels
) -> Iterator[tuple[int, Bits]]:
    start, stop = frame_range
    pictures = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    if len(pictures) != num_frames:
        reason = f"mask_uri: the video has {num_frames} frames, the folder has {len(pictures)} pictures"
        raise ClipError("mask_length_mismatch", reason)
    for index, file in enumerate(sorted(pictures, key=_natural)[start:stop], start):
        yield index, read_mask_picture(file, levels) > THRESHOLD


def _from_coco(file: Path, size: Size, num_frames: int, start: int, stop: int) -> Iterator[tuple[int, Bits]]:
    length, masks = read_coco(file, size)
    if length is not None and length != num_frames:
        reason = f"mask_uri: the video has {num_frames} frames, {file.name} has {length}"
        raise ClipError("mask_length_mismatch", reason)
    return ((index, bits) for index, bits in masks if start <= index < stop)


def _from_parquet(file: Path, size: Size, num_frames: int, start: int, stop: int) -> Iterator[FrameMask]:
    try:
        reader = MaskReader(file)
        last = max(reader.boxes(), default=0)
    except (ValueError, KeyError, OSError) as error:
        raise ClipError("bad_mask_file", f"mask_uri: {file.name} is not a mask file: {error}") from error
    if reader.size != size:
        raise ClipError("mask_size_mismatch", f"mask_uri: the masks are {reader.size}, the video is {size}")
    if last >= num_frames:
        reason = f"mask_uri: the video has {num_frames} frames, {file.name} has a mask on frame {last}"
        raise ClipError("mask_length_mismatch", reason)
    try:
        for first in range(start, stop, CHUNK_FRAMES):
            yield from reader.get(first, min(first + CHUNK_FRAMES, stop)).values()
    except (ValueError, OSError) as error:
        raise ClipError("bad_mask_file", f"mask_uri: {file.name} is damaged: {error}") from error


def read_mask_picture(file: Path, levels: MaskLevels) -> npt.NDArray[np.uint8]:
    """Read a picture of a mask as brightness (H, W), and refuse a picture that is no mask.

    Raises:
        ClipError: `mask_too_dark`, `mask_transparent`, `mask_coloured`, and errors of reading a picture.
    """
    _refuse_transparency(file, levels)
    rgb = read_image(str(file))
    levels.see_rgb(rgb, file.name)
    gray = read_image(str(file), gray=True)
    brightest = int(gray.max())
    # A mask of 0 and 1 is a common mistake, and would pass for an empty one. The edge of an object that has all but
    # left the frame is no thicker than two pixels.
    lossless = file.suffix.lower() not in {".jpg", ".jpeg"}
    if lossless and 0 < brightest <= THRESHOLD and has_interior(gray > 0):
        raise levels.too_dark(f"the largest value of {file.name}", brightest)
    levels.see(gray, file.name)
    return gray


def _refuse_transparency(file: Path, levels: MaskLevels) -> None:
    """Raise `mask_transparent` for a picture with transparent pixels, `bad_mask_file` for a picture of many pages."""
    # Pictures are read over white: transparent pixels would be masked. read_image reports unreadable and large files.
    with contextlib.suppress(OSError, ValueError, Image.DecompressionBombError), Image.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            return
        pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "MPO":
            raise ClipError(
                "bad_mask_file", levels.named(f"{file.name} holds {pages} pictures; give a folder of pictures")
            )
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            reason = f"{file.name} is partly transparent; give black for keep and white for replace"
            raise ClipError("mask_transparent", levels.named(reason))


def _natural(file: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that puts 2.png before 10.png; the name itself decides between 1.png and 01.png."""
    pieces = re.findall(r"\d+|\D+", file.name)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces], file.name
