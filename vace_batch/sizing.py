"""What 1,000 hours of source cost on GPUs, by model, preset and crop: the arithmetic of `vace-batch plan`, as a table.

python -m vace_batch.sizing [--share 0.1] [--price 3] [--tflops 350] [--fps 25]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from vace_batch import profiles
from vace_batch.cost import Prices, Speed, Used
from vace_batch.geometry import Size, token_count
from vace_batch.job import Sampling

SOURCE_HOURS = 1000
_CROPS = (Size(384, 384), Size(512, 512), Size(832, 480), Size(1280, 720))
_PRESETS = {"removal": "removal", "restyle": "restyle", "fast": "removal"}
"""Presets, and a task of each. A removal has no prompt, so that one forward a step is enough; a restyle has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: `window_s` is GPU-seconds of a window, `gpu_hours` those of `SOURCE_HOURS`."""

    model: str
    preset: str
    crop: Size
    window_s: float
    gpu_hours: float


def rows(*, share: float = 0.1, tflops: float = 350.0, fps: float = 25.0) -> Iterator[Row]:
    """Every model, preset and crop that the model takes in one window.

    `share` is that of the frames with something to change in one such crop, 0..1; `tflops` what a GPU sustains.
    """
    speed = Speed.sustained(tflops)
    for model in (profiles.VACE_1_3B, profiles.VACE_1_3B.replace("1.3B", "14B")):
        profile = profiles.profile(model)
        for preset, task in _PRESETS.items():
            sampling = profile.sampling(task, _sampling(preset))
            for crop in _CROPS:
                if token_count(profile.max_frames, crop) > profile.max_tokens:
                    continue
                guided = preset == "restyle"
                seconds = speed.seconds(*profile.window_parts(profile.max_frames, crop, sampling, guided=guided))
                frames = SOURCE_HOURS * 3600 * fps * share
                windows = frames / (profile.max_frames - profile.overlap_frames)
                yield Row(
                    model=profile.name, preset=preset, crop=crop, window_s=seconds, gpu_hours=windows * seconds / 3600
                )


def _sampling(preset: str) -> Sampling:
    return profiles.PRESETS[preset].sampling


def table(*, share: float = 0.1, price: float = 3.0, tflops: float = 350.0, fps: float = 25.0) -> str:
    """The rows as a table in Markdown; `price` is of a GPU-hour."""
    lines = [
        f"| model | preset | crop | GPU-s a window | GPU-hours for {SOURCE_HOURS:,} h | at {price:g} a GPU-hour |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows(share=share, tflops=tflops, fps=fps):
        cost = Prices(gpu_hour=price).money(Used(gpu_s=row.gpu_hours * 3600)) or 0.0
        name = row.model.rpartition("/")[2].removesuffix("-diffusers")
        lines.append(
            f"| {name} | {row.preset} | {row.crop} | {row.window_s:,.1f} | {row.gpu_hours:,.0f} | {cost:,.0f} |"
        )
    return "\n".join(lines)


def main(
    share: Annotated[float, typer.Option(min=0, max=1, help="of the frames have something to change")] = 0.1,
    price: Annotated[float, typer.Option(min=0, help="of a GPU-hour")] = 3.0,
    tflops: Annotated[float, typer.Option(min=0.1, help="what a GPU sustains")] = 350.0,
    fps: Annotated[float, typer.Option(min=1, help="frames a second of the sources")] = 25.0,
) -> None:
    """Print the table."""
    print(table(share=share, price=price, tflops=tflops, fps=fps))


if __name__ == "__main__":
    typer.run(main)
