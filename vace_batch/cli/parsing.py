"""Parse texts of the command line into values of `Options`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from vace_batch.costs import Calibration, Prices
from vace_batch.errors import UsageError
from vace_batch.manifest.cells import PARSERS, Cell
from vace_batch.manifest.presets import PRESETS
from vace_batch.manifest.schema import SCHEMA
from vace_batch.options import EngineSettings, LoraOption, MediaLimits, PresetOption, QualitySettings
from vace_batch.storage.files import read_bytes

SettingsT = TypeVar("SettingsT", bound=BaseModel)


def parse_quality(given: Sequence[str]) -> QualitySettings:
    """Parse thresholds, each as `CHECK=REVIEW[:FAIL]`, `untouched=psnr` or `untouched=vmaf`, or `off`.

    Raises:
        UsageError: a check is unknown or a value out of range.
    """
    settings: dict[str, Any] = {}
    for text in given:
        name, _, values = text.partition("=")
        review, _, fail = values.partition(":")
        if text == "off":
            settings["enabled"] = False
        else:
            settings[name] = values if name == "untouched" else {"review": review, "fail": fail or None}
    try:
        return QualitySettings.model_validate(settings)
    except ValidationError as error:
        names = ", ".join(name for name in QualitySettings.model_fields if name not in ("enabled", "untouched"))
        expected = f"off, untouched=psnr, untouched=vmaf, or CHECK=REVIEW[:FAIL] with CHECK of {names}"
        raise UsageError(f"--quality: expected {expected}; {_faults(error)}") from None


def parse_roots(given: Sequence[str]) -> tuple[str, ...]:
    """Make local roots absolute, so that a later `retry` from another folder allows the same files."""
    return tuple(root if "://" in root else str(Path(root).resolve()) for root in given)


def parse_pickles(given: Sequence[str]) -> tuple[str, ...]:
    """Check SHA-256 digests and lower their case.

    Raises:
        UsageError: a text is not the hex form of a SHA-256.
    """
    digests = tuple(text.strip().lower() for text in given)
    for digest in digests:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise UsageError(f"--allow-pickle: expected the 64 hex digits of a SHA-256, got {digest!r}")
    return digests


def parse_loras(given: Sequence[str]) -> tuple[LoraOption, ...]:
    """Parse LoRAs, each as `[PRESET:][high:|low:]FILE[=WEIGHT]`; local files get absolute paths.

    Raises:
        UsageError: a text has another form.
    """
    loras = [parse_lora(text) for text in given]
    return tuple(
        lora if "://" in lora.uri else lora.model_copy(update={"uri": str(Path(lora.uri).resolve())}) for lora in loras
    )


def parse_lora(text: str) -> LoraOption:
    """Parse a LoRA of the form `[PRESET:][high:|low:]FILE[=WEIGHT]`.

    Raises:
        UsageError: the weight is out of range, or the file is not a safetensors file.
    """
    preset, text = _prefix(text, tuple(PRESETS))
    expert, text = _prefix(text, ("high", "low"))
    uri, equals, tail = text.rpartition("=")
    try:
        weight = float(tail) if equals else 1.0
    except ValueError:
        uri, weight = text, 1.0
    uri = uri if equals and uri else text
    if not uri.endswith(".safetensors"):
        raise UsageError(f"--lora: expected [PRESET:]FILE.safetensors[=WEIGHT], got {text!r}; pickles are not read")
    if not -4 <= weight <= 4:
        raise UsageError(f"--lora {uri}: expected a weight of -4..4, got {weight:g}")
    return LoraOption.model_validate({"uri": uri, "weight": weight, "preset": preset, "expert": expert or "both"})


def _prefix(text: str, known: Sequence[str]) -> tuple[str | None, str]:
    """Split a known word and its colon off the front of `text`."""
    head, colon, rest = text.partition(":")
    return (head, rest) if colon and head in known else (None, text)


def parse_presets(given: Sequence[str]) -> tuple[PresetOption, ...]:
    """Parse sampling values of presets, each as `fast:num_inference_steps=8,flow_shift=3`.

    Raises:
        UsageError: a preset or a value is unknown, or a value is out of range.
    """
    return tuple(_preset(text) for text in given)


def _preset(text: str) -> PresetOption:
    name, colon, pairs = text.partition(":")
    if not colon or name not in PRESETS:
        raise UsageError(f"--preset: expected PRESET:NAME=VALUE[,...] of {', '.join(PRESETS)}, got {text!r}")
    values = dict(_sampling_value(pair) for pair in pairs.split(","))
    cell = Cell(f"--preset {name}", "")
    PARSERS["sampling"](values, cell)
    if cell.faults:
        faults = (f"{fault.column}: expected {fault.expected}, got {fault.got}" for fault in cell.faults)
        raise UsageError("; ".join(faults))
    return PresetOption(preset=name, sampling=values)


def _sampling_value(pair: str) -> tuple[str, int | float | str]:
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


def parse_engine(given: Sequence[str]) -> EngineSettings:
    """Parse settings of the engine, each as `NAME=VALUE`.

    Raises:
        UsageError: a name is unknown or a value out of range.
    """
    return _settings(EngineSettings, "--engine", given)


def parse_limits(given: Sequence[str]) -> MediaLimits:
    """Parse limits of a video, each as `NAME=VALUE`.

    Raises:
        UsageError: a name is unknown or a value out of range.
    """
    return _settings(MediaLimits, "--limit", given)


def parse_prices(given: Sequence[str]) -> Prices:
    """Parse prices, each as `NAME=VALUE`.

    Raises:
        UsageError: a name is unknown or a value out of range.
    """
    return _settings(Prices, "--price", given)


def _settings(kind: type[SettingsT], option: str, given: Sequence[str]) -> SettingsT:
    pairs = dict(pair.partition("=")[::2] for pair in given)
    try:
        return kind.model_validate(pairs)
    except ValidationError as error:
        names = ", ".join(kind.model_fields)
        raise UsageError(f"{option}: {_faults(error)} (settings: {names})") from None


def read_calibration(uri: str) -> Calibration:
    """Read the rates that `doctor --calibrate` wrote.

    Raises:
        UsageError: the file cannot be read, or has another form.
    """
    try:
        return Calibration.model_validate_json(read_bytes(uri))
    except OSError as error:
        raise UsageError(f"--calibration {uri}: cannot be read: {error}") from error
    except ValidationError as error:
        expected = "expected a file of `doctor --calibrate`"
        raise UsageError(f"--calibration {uri}: {expected}: {_faults(error)}") from None


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
