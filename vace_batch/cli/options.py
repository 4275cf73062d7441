"""Options of the command line that several commands have, and what their texts mean."""

from __future__ import annotations

from typing import Annotated

import typer

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
AllowPickle = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-pickle",
        metavar="SHA256",
        envvar="VACE_BATCH_ALLOW_PICKLE",
        help="A .pt file below --weights that rows may name, by its digest; repeatable.",
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
PresetValues = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        metavar="PRESET:NAME=VALUE[,...]",
        help="Values of `sampling` for rows of a preset, as a LoRA wants them; a row's own win; repeatable.",
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
PayloadMb = Annotated[
    int, typer.Option(min=16, metavar="MIB", help="What waits for the GPUs in Ray's object store, at most.")
]
TimeLimit = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", help="A step of a clip that takes longer is killed, and counts.")
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit", metavar="NAME=VALUE", help="What a video may be: max_frames=..., max_pixels=...; repeatable."
    ),
]
Crf = Annotated[int | None, typer.Option(min=0, max=51, help="Encoder quality; by codec where not given.")]
FeatherPx = Annotated[int, typer.Option(min=0, help="How far the fill fades into the source outside the mask.")]
DetectEvery = Annotated[
    int, typer.Option(min=1, max=16, help="Frames one look of the detector may stand for; 1: every frame is looked at.")
]
Tracker = Annotated[
    str,
    typer.Option("--tracker", metavar="NAME", help="Who follows objects: bytetrack or, for moving cameras, botsort."),
]
KeepMasks = Annotated[
    str | None,
    typer.Option(
        "--keep-masks", metavar="FORMAT", help="Also write OUT/masks (ffv1, png, coco, parquet), of finished clips too."
    ),
]


QualityOption = Annotated[
    list[str] | None,
    typer.Option(
        "--quality",
        metavar="CHECK=REVIEW[:FAIL]",
        help="From which value a finished clip is for review, or a failure; `off` measures nothing; repeatable.",
    ),
]
Retries = Annotated[
    int, typer.Option(min=0, max=8, help="Further attempts at a clip whose verdict is no pass; the best is kept.")
]
RetryModel = Annotated[str | None, typer.Option(metavar="MODEL", help="A bigger model for such an attempt.")]


PriceValues = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="NAME=VALUE",
        envvar="VACE_BATCH_PRICE",
        help="gpu_hour, gpu_hour_spot, cpu_hour, cpu_hour_spot, gb_month, months, currency, market; repeatable.",
    ),
]
CalibrationFile = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        envvar="VACE_BATCH_CALIBRATION",
        help="What `doctor --calibrate` measured, for predictions.",
    ),
]


MaxGpuHours = Annotated[
    float | None, typer.Option(min=0, help="Begin no window beyond this, counting all that was ever done in OUT.")
]
MaxCost = Annotated[float | None, typer.Option(min=0, help="The same in money, by --price.")]
