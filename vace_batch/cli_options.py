"""Options of the command line that several commands have, and what their texts mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
from pydantic import BaseModel, ValidationError

from vace_batch.config import (
    EngineSettings,
    KeptForm,
    LoraOption,
    MediaLimits,
    PresetOption,
    QualitySettings,
    TrackerName,
)
from vace_batch.cost import Calibration, Prices
from vace_batch.errors import UsageError
from vace_batch.storage import read_bytes

SettingsT = TypeVar("SettingsT", bound=BaseModel)

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
KEPT_FORMS = get_args(KeptForm)
TRACKERS = get_args(TrackerName)
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


def parse_quality(given: list[str] | None) -> QualitySettings:
    """Thresholds named on the command line.

    Raises:
        UsageError: a check is unknown or a value out of range.
    """
    settings: dict[str, Any] = {}
    for text in given or ():
        name, _, values = text.partition("=")
        review, _, fail = values.partition(":")
        settings |= {"enabled": False} if text == "off" else {name: {"review": review, "fail": fail or None}}
    try:
        return QualitySettings.model_validate(settings)
    except ValidationError as error:
        names = ", ".join(name for name in QualitySettings.model_fields if name != "enabled")
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"--quality: expected off or CHECK=REVIEW[:FAIL] with CHECK of {names}; {faults}") from None


def parse_roots(given: list[str] | None) -> tuple[str, ...]:
    """Roots, absolute, so that a later `retry` from another folder means the same."""
    return tuple(root if "://" in root else str(Path(root).resolve()) for root in given or ())


def parse_pickles(given: list[str] | None) -> tuple[str, ...]:
    """SHA-256 digests in small letters.

    Raises:
        UsageError: one is none.
    """
    digests = tuple(text.strip().lower() for text in given or ())
    for digest in digests:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise UsageError(f"--allow-pickle: expected the 64 hex digits of a SHA-256, got {digest!r}")
    return digests


def parse_kept(given: str | None) -> Any:
    """The form of kept masks.

    Raises:
        UsageError: there is no such form.
    """
    if given not in (None, *KEPT_FORMS):
        raise UsageError(f"--keep-masks: expected {', '.join(KEPT_FORMS)}, got {given!r}")
    return given


def parse_tracker(given: str) -> Any:
    """The tracker's name.

    Raises:
        UsageError: there is no such tracker.
    """
    if given not in TRACKERS:
        raise UsageError(f"--tracker: expected {' or '.join(TRACKERS)}, got {given!r}")
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


def parse_presets(given: list[str] | None) -> tuple[PresetOption, ...]:
    """The run's values for presets, each as `fast:num_inference_steps=8,flow_shift=3`.

    Raises:
        UsageError: there is no such preset or value, or it is out of range.
    """
    from vace_batch.manifest_values import PARSERS, Cell
    from vace_batch.profiles import PRESETS

    found = []
    for text in given or ():
        name, colon, rest = text.partition(":")
        if not colon or name not in PRESETS:
            raise UsageError(f"--preset: expected PRESET:NAME=VALUE[,...] of {', '.join(PRESETS)}, got {text!r}")
        values, cell = dict(map(_sampling_value, rest.split(","))), Cell("")
        PARSERS["sampling"](values, cell)
        if cell.faults:
            faults = (f"--preset {name}{at}: expected {wanted}, got {got}" for at, got, wanted in cell.faults)
            raise UsageError("; ".join(faults))
        found.append(PresetOption(preset=name, sampling=values))
    return tuple(found)


def _sampling_value(pair: str) -> tuple[str, int | float | str]:
    import pyarrow as pa

    from vace_batch.manifest_schema import SCHEMA

    types = {field.name: field.type for field in SCHEMA.field("sampling").type}
    name, equals, text = pair.partition("=")
    if not equals or name not in types:
        raise UsageError(f"--preset: expected NAME=VALUE with NAME of {', '.join(types)}, got {pair!r}")
    if pa.types.is_string(types[name]):
        return name, text
    try:
        return name, int(text) if pa.types.is_integer(types[name]) else float(text)
    except ValueError:
        raise UsageError(f"--preset {name}: expected a value of type {types[name]}, got {text!r}") from None


def parse_engine(given: list[str] | None) -> EngineSettings:
    """The settings named on the command line.

    Raises:
        UsageError: one is unknown or out of range; says what was expected.
    """
    return _settings(EngineSettings, "--engine", given)


def parse_limits(given: list[str] | None) -> MediaLimits:
    """What a video may be at most, as named on the command line.

    Raises:
        UsageError: one is unknown or out of range; says what was expected.
    """
    return _settings(MediaLimits, "--limit", given)


def _settings(kind: type[SettingsT], option: str, given: list[str] | None) -> SettingsT:
    pairs = dict(pair.partition("=")[::2] for pair in given or ())
    try:
        return kind.model_validate(pairs)
    except ValidationError as error:
        names = ", ".join(kind.model_fields)
        raise UsageError(f"{option}: {_faults(error)} (settings: {names})") from None


def parse_prices(given: list[str] | None) -> Prices:
    """Prices named on the command line.

    Raises:
        UsageError: a name is unknown or a value out of range; says what was expected.
    """
    return _settings(Prices, "--price", given)


def read_calibration(uri: str | None) -> Calibration:
    """What a machine was measured at; what the package assumes where no file is given.

    Raises:
        UsageError: the file is not there, or it is none of `doctor --calibrate`.
    """
    if uri is None:
        return Calibration()
    try:
        return Calibration.model_validate_json(read_bytes(uri))
    except OSError as error:
        raise UsageError(f"--calibration {uri}: cannot be read: {error}") from error
    except ValidationError as error:
        expected = "expected a file of `doctor --calibrate`"
        raise UsageError(f"--calibration {uri}: {expected}: {_faults(error)}") from None


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
