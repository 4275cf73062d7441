"""Print a table of GPU costs of 1,000 hours of source, by model, preset and crop, as `vace-batch plan` counts.

python -m vace_batch.vace.sizing [--share 0.1] [--price 3] [--tflops 350] [--fps 25]
python -m vace_batch.vace.sizing --needs
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from vace_batch.costs import Prices, Speed, Used
from vace_batch.geometry import Size, token_count
from vace_batch.manifest.choices import PresetName, Task
from vace_batch.manifest.job import Sampling
from vace_batch.manifest.presets import PRESETS
from vace_batch.vace import profiles

SOURCE_HOURS = 1000
_CROPS = (Size(384, 384), Size(512, 512), Size(832, 480), Size(1280, 720))
_MODELS = (profiles.VACE_1_3B, profiles.VACE_14B)
_TEXT_WEIGHTS = 5_680_910_336
"""Parameters of UMT5-XXL's encoder, which GPU actors load only while they embed a new prompt."""
VAE_WEIGHTS = 126_892_531
"""Parameters of Wan 2.1's VAE, kept at 32 bits."""
_PRESETS: dict[PresetName, Task] = {"removal": "removal", "restyle": "restyle", "fast": "removal"}
"""Presets, and a task of each. A removal has no prompt, so that one forward a step is enough; a restyle has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: GPU-seconds of a window, and GPU-hours of `SOURCE_HOURS` hours of source."""

    model: str
    preset: str
    crop: Size
    window_s: float
    gpu_hours: float


def rows(*, share: float = 0.1, tflops: float = 350.0, fps: float = 25.0) -> Iterator[Row]:
    """Yield a row for every model, preset and crop that the model takes in one window.

    `share` is that of the frames with something to change in one such crop, 0..1; `tflops` what a GPU sustains.
    """
    speed = Speed.sustained(tflops)
    for model in _MODELS:
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


def needs(*, tflops: float = 350.0) -> str:
    """Return a Markdown table of the memory and time that the real models need on a GPU; GB are 10^9 bytes."""
    lines = [
        "| model | files: transformer, text encoder, VAE | weights on the GPU | "
        "and for a window of 81 frames, at least | time of 50 steps with guidance |",
        "|---|---|---:|---|---|",
    ]
    speed = Speed.sustained(tflops)
    for model in _MODELS:
        profile = profiles.profile(model)
        weights, vae = 2 * profile.architecture.num_weights, 4 * VAE_WEIGHTS
        sizes = [size for size in _CROPS[2:] if token_count(profile.max_frames, size) <= profile.max_tokens]
        tokens = {size: token_count(profile.max_frames, size) for size in sizes}
        held = (f"{profile.architecture.forward_bytes(tokens[size]) / 1e9:.1f} GB at {size}" for size in sizes)
        sampling = profile.sampling("restyle", _sampling("restyle"))
        parts = (profile.window_parts(profile.max_frames, size, sampling, guided=True) for size in sizes)
        seconds = (f"{speed.seconds(*part):,.0f} s at {size}" for size, part in zip(sizes, parts, strict=True))
        files = ", ".join(f"{num_bytes / 1e9:.1f}" for num_bytes in (weights, 2 * _TEXT_WEIGHTS, vae))
        on_gpu = f"{(weights + vae) / 1e9:.1f} GB"
        lines.append(f"| {_short(model)} | {files} GB | {on_gpu} | {', '.join(held)} | {', '.join(seconds)} |")
    return "\n".join(lines)


def _short(model: str) -> str:
    return model.rpartition("/")[2].removesuffix("-diffusers")


def _sampling(preset: PresetName) -> Sampling:
    return PRESETS[preset].sampling


def table(*, share: float = 0.1, price: float = 3.0, tflops: float = 350.0, fps: float = 25.0) -> str:
    """Return the rows as a Markdown table; `price` is of a GPU-hour."""
    lines = [
        f"| model | preset | crop | GPU-seconds per window | "
        f"GPU-hours for {SOURCE_HOURS:,} h | cost at {price:g} per GPU-hour |",
        "|---|---|---|---:|---:|---:|",
    ]
    for row in rows(share=share, tflops=tflops, fps=fps):
        cost = Prices(gpu_hour=price).money(Used(gpu_s=row.gpu_hours * 3600)) or 0.0
        name = f"{_short(row.model)} | {row.preset} | {row.crop}"
        lines.append(f"| {name} | {row.window_s:,.1f} | {row.gpu_hours:,.0f} | {cost:,.0f} |")
    return "\n".join(lines)


def main(
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the frames that have something to change, 0..1.")
    ] = 0.1,
    price: Annotated[float, typer.Option(min=0, help="Price of a GPU-hour.")] = 3.0,
    tflops: Annotated[float, typer.Option(min=0.1, help="TFLOP/s that a GPU sustains.")] = 350.0,
    fps: Annotated[float, typer.Option(min=1, help="Frames per second of the sources.")] = 25.0,
    gpu: Annotated[
        bool, typer.Option("--needs", help="Print the memory and time that each model needs instead.")
    ] = False,
) -> None:
    """Print the table."""
    print(needs(tflops=tflops) if gpu else table(share=share, price=price, tflops=tflops, fps=fps))


if __name__ == "__main__":
    typer.run(main)
