"""Are burned-in subtitles found on every frame that shows them? Clips are made for it, in Latin and other letters.

    python benchmarks/subtitles.py [--font FILE.ttf [--text "..."]]

Each clip pans over a picture and shows three lines, one after another, with pauses. A frame is missed when less than
half of its letters' pixels are masked; `least` is the smallest share on any frame. `idle` are frames without text that
are masked all the same, but for two frames before and after each line.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from vace_batch.demo.clips import picture
from vace_batch.geometry import TOKEN_PX, Size
from vace_batch.manifest.job import Job
from vace_batch.masks.clip import MaskRequest, clip_masks
from vace_batch.masks.models import MaskModels
from vace_batch.video.shots import Scan
from vace_batch.video.writer import write_clip

SIZE, NUM_FRAMES = Size(640, 360), 75
LINES = (range(6, 26), range(30, 50), range(54, 72))
LATIN = ("We should have left hours ago.", "- Why?\n- You know why.", "Nobody will ever find us here, will they?")
JAPANESE = ("もう何時間も前に出るべきだった。", "どうして？\n知っているくせに。", "ここなら誰にも見つからないよね？")
STYLES = (
    ("white, black outline", 24, "white", 2, None),
    ("yellow, no outline", 26, "yellow", 0, None),
    ("small, on a band", 18, "white", 0, (0, 0, 0, 150)),
)
BACKGROUNDS = ("rocket.jpg", "coffee.png", "gravel.png")

Pixels = npt.NDArray[np.uint8]
Letters = npt.NDArray[np.bool_]


def frames(
    name: str, lines: tuple[str, ...], font: str, style: tuple
) -> Iterator[tuple[Pixels, npt.NDArray[np.bool_]]]:
    """Frames of a clip and where their letters are."""
    _, px, fill, outline, band = style
    face = ImageFont.truetype(font, px)
    source = picture(name)
    for index in range(NUM_FRAMES):
        width = 300
        left = (source.shape[1] - width) * index / NUM_FRAMES
        matrix = np.array(
            [[SIZE.width / width, 0, -left * SIZE.width / width], [0, SIZE.width / width, -80]], np.float32
        )
        view = cv2.warpAffine(source, matrix, (SIZE.width, SIZE.height), borderMode=cv2.BORDER_REFLECT)
        canvas, letters = Image.fromarray(view), Image.new("L", (SIZE.width, SIZE.height))
        shown = [line for line, when in zip(lines, LINES, strict=True) if index in when]
        if shown:
            place = dict(xy=(SIZE.width // 2, 318), text=shown[0], font=face, anchor="mm", align="center")
            if band is not None:
                box = ImageDraw.Draw(canvas).multiline_textbbox(**place)
                ImageDraw.Draw(canvas, "RGBA").rectangle((box[0] - 8, box[1] - 4, box[2] + 8, box[3] + 4), band)
            ImageDraw.Draw(canvas).text(**place, fill=fill, stroke_width=outline, stroke_fill="black")
            ImageDraw.Draw(letters).text(**place, fill=255, stroke_width=outline)
        yield np.asarray(canvas), np.asarray(letters) > 127


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", help="letters of another script, beside DejaVu Sans with Latin ones")
    arguments = parser.parse_args()
    scripts = {"Latin": (LATIN, font_manager.findfont("DejaVu Sans"))}
    if arguments.font:
        scripts["Japanese"] = (JAPANESE, arguments.font)
    job = Job(job_id="text", video_uri="-", task="removal", targets=("@text",))
    print("| script | style | picture | frames with text | missed | least | idle | ms a frame |\n|" + "---|" * 8)
    for script, (lines, font) in scripts.items():
        for style, name in zip(STYLES, BACKGROUNDS, strict=True):
            made = list(frames(name, lines, font, style))
            with tempfile.TemporaryDirectory() as folder:
                path = str(Path(folder, "clip.mp4"))
                write_clip(path, (pixels for pixels, _ in made), rate=Fraction(25), tone_hz=220.0)
                request = MaskRequest(
                    job=job,
                    path=path,
                    size=SIZE,
                    scan=Scan(num_frames=NUM_FRAMES, pts=(), cuts=()),
                    frame_range=(0, NUM_FRAMES),
                    models=MaskModels(),
                    min_px=TOKEN_PX,
                )
                started = time.process_time()
                masks = {mask.index: mask for mask in clip_masks(request)}
                spent = (time.process_time() - started) / NUM_FRAMES * 1000
            shares = {
                index: (masks[index].full(SIZE) & letters).sum() / letters.sum() if index in masks else 0.0
                for index, (_, letters) in enumerate(made)
                if letters.any()
            }
            near = {index + step for index in shares for step in range(-2, 3)}
            missed = sum(share < 0.5 for share in shares.values())
            row = (script, style[0], name, len(shares), missed, f"{min(shares.values()):.1%}", len(set(masks) - near))
            print("| " + " | ".join(map(str, (*row, f"{spent:.0f}"))) + " |", flush=True)


if __name__ == "__main__":
    main()
