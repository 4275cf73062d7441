"""Parse the command line's values into options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from vace_batch.costs import Calibration, Prices
from vace_batch.errors import UsageError
from vace_batch.options import (
    EngineSettings,
    KeptForm,
    LoraOption,
    MediaLimits,
    PresetOption,
    QualitySettings,
    TrackerName,
)
from vace_batch.storage.files import read_bytes

SettingsT = TypeVar("SettingsT", bound=BaseModel)
KEPT_FORMS = get_args(KeptForm)
TRACKERS = get_args(TrackerName)


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
    from vace_batch.vace.loras import parse_lora

    found = [parse_lora(text) for text in given or ()]
    return tuple(
        one if "://" in one.uri else one.model_copy(update={"uri": str(Path(one.uri).resolve())}) for one in found
    )


def parse_presets(given: list[str] | None) -> tuple[PresetOption, ...]:
    """The run's values for presets, each as `fast:num_inference_steps=8,flow_shift=3`.

    Raises:
        UsageError: there is no such preset or value, or it is out of range.
    """
    from vace_batch.manifest.cells import PARSERS, Cell
    from vace_batch.manifest.presets import PRESETS

    found = []
    for text in given or ():
        name, colon, rest = text.partition(":")
        if not colon or name not in PRESETS:
            raise UsageError(f"--preset: expected PRESET:NAME=VALUE[,...] of {', '.join(PRESETS)}, got {text!r}")
        values, cell = dict(map(_sampling_value, rest.split(","))), Cell(f"--preset {name}", "")
        PARSERS["sampling"](values, cell)
        if cell.faults:
            faults = (f"{fault.column}: expected {fault.expected}, got {fault.got}" for fault in cell.faults)
            raise UsageError("; ".join(faults))
        found.append(PresetOption(preset=name, sampling=values))
    return tuple(found)


def _sampling_value(pair: str) -> tuple[str, int | float | str]:
    import pyarrow as pa

    from vace_batch.manifest.schema import SCHEMA

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
