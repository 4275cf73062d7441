"""Options of the command line that several commands have, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from vace_batch.config import EngineSettings, LoraOption
from vace_batch.errors import UsageError

ManifestArg = Annotated[str, typer.Argument(metavar="MANIFEST", help="Parquet manifest: a path or an fsspec URI.")]
OutArg = Annotated[str, typer.Argument(metavar="OUT", help="Output folder of an earlier run.")]
OutOption = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="Output folder: a path or an fsspec URI.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Model = Annotated[
    str, typer.Option(help="Default model: tiny, a folder, hf://owner/name[@revision] or a store's folder.")
]
Detector = Annotated[str | None, typer.Option(help="Default YOLO weights for `targets`.")]
Segmenter = Annotated[str | None, typer.Option(help="Default SAM weights for `points` and box prompts.")]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weights", metavar="PLACE", help="Where weights named in the manifest may lie: a folder, s3://, hf://."
    ),
]
AllowRoot = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-root",
        metavar="PLACE",
        envvar="VACE_BATCH_ALLOW_ROOT",
        help="A folder or URI that rows may read, beside the manifest's folder and OUT; repeatable.",
    ),
]
LoraFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="[PRESET:][high:|low:]FILE[=WEIGHT]",
        help="A LoRA for rows that name none, of all presets or of one; safetensors; repeatable.",
    ),
]
Depth = Annotated[str | None, typer.Option(help="Default ultralytics weights for the control depth.")]
Pose = Annotated[str | None, typer.Option(help="Default ultralytics weights for the controls pose and pose_body.")]
CpuActors = Annotated[int | None, typer.Option(min=1, help="Processes for masks, VCUs and stitching.")]
GpuActors = Annotated[int | None, typer.Option(min=1, help="Processes for VACE: one a GPU, one on a CPU core without.")]
MinCpuActors = Annotated[
    int | None,
    typer.Option(min=0, help="Keep only so many, start up to --cpu-actors as there is work; else always all."),
]
MinGpuActors = Annotated[int | None, typer.Option(min=0, help="The same for --gpu-actors.")]
MaxBatch = Annotated[int, typer.Option(min=1, help="Equal windows in one call of a GPU actor.")]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine", metavar="NAME=VALUE", help="How the model computes: dtype, storage, attention, ... ; repeatable."
    ),
]
Crf = Annotated[int | None, typer.Option(min=0, max=51, help="Encoder quality; by codec where not given.")]
FeatherPx = Annotated[int, typer.Option(min=0, help="How far the fill fades into the source outside the mask.")]
DetectEvery = Annotated[
    int, typer.Option(min=1, max=16, help="Frames one look of the detector may stand for; 1: every frame is looked at.")
]
KeepMasks = Annotated[
    str | None, typer.Option("--keep-masks", metavar="FORMAT", help="Also write OUT/masks: ffv1, coco or parquet.")
]


def parse_roots(given: list[str] | None) -> tuple[str, ...]:
    """Roots, absolute, so that a later `retry` from another folder means the same."""
    return tuple(root if "://" in root else str(Path(root).resolve()) for root in given or ())


def parse_kept(given: str | None) -> Any:
    """The form of kept masks.

    Raises:
        UsageError: there is no such form.
    """
    if given not in (None, "ffv1", "coco", "parquet"):
        raise UsageError(f"--keep-masks: expected ffv1, coco or parquet, got {given!r}")
    return given


def parse_loras(given: list[str] | None) -> tuple[LoraOption, ...]:
    """LoRAs of the run, local ones by absolute path.

    Raises:
        UsageError: one is not of the form that `--lora` says.
    """
    from vace_batch.loras import parse_lora

    found = [parse_lora(text) for text in given or ()]
    return tuple(
        one if "://" in one.uri else one.model_copy(update={"uri": str(Path(one.uri).resolve())}) for one in found
    )


def parse_engine(given: list[str] | None) -> EngineSettings:
    """The settings named on the command line.

    Raises:
        UsageError: one is unknown or out of range; says what was expected.
    """
    pairs = dict(pair.partition("=")[::2] for pair in given or ())
    try:
        return EngineSettings.model_validate(pairs)
    except ValidationError as error:
        names = ", ".join(EngineSettings.model_fields)
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"--engine: {faults} (settings: {names})") from None
