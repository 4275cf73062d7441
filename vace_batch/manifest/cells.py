"""Parse cells of a manifest into values of `Job`; a parser notes every fault on the `Cell`.

A parser never gets null, and gets only values of the column's type, which `column_types` has checked.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar, cast

from vace_batch.errors import Fault
from vace_batch.manifest.choices import (
    COMPOSITIONS,
    CONTROLS,
    EXTEND_MODES,
    EXTEND_UNITS,
    LORA_EXPERTS,
    MASK_RULES,
    MASK_SHAPES,
    PROCESSES,
    REFERENCE_BACKGROUNDS,
    REFERENCE_MODES,
    SEED_SCOPES,
    SWITCHES,
    TASKS,
)
from vace_batch.manifest.job import BoxKey, Dilation, Expand, Extend, LoraRef, Pick, PointKey, Protect, Sampling
from vace_batch.manifest.limits import (
    LORA_WEIGHT_RANGE,
    MAX_COORDINATE_PX,
    MAX_DILATION,
    MAX_FRAME,
    MAX_JOB_ID_BYTES,
    MAX_LABEL_CHARS,
    MAX_LABELS,
    MAX_LORAS,
    MAX_PROMPT_CHARS,
    MAX_REFERENCES,
    MAX_SEED,
    MAX_TIME_S,
    MIN_WINDOW_TOKENS,
    PRIORITY_RANGE,
    SAMPLING_RANGES,
    STEPS_RANGE,
    WINDOW_FRAMES_RANGE,
)
from vace_batch.manifest.presets import PRESETS
from vace_batch.manifest.uris import UriError, resolve_uri

_SHOWN_CHARS = 60
_SIDES: tuple[Literal["left", "right", "up", "down"], ...] = ("left", "right", "up", "down")
_DILATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(px|%|tokens?)")
_OUTPUT_SUFFIX = re.compile(r"[^/]+\.[A-Za-z0-9]{1,8}")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _SHOWN_CHARS
_repr.maxdict = _repr.maxlist = 4
_repr.maxlevel = 3


def shown(value: object) -> str:
    """Return the `repr` of `value` in at most 60 characters, control characters escaped."""
    text = _repr.repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def one_line(text: str) -> str:
    """Return a short printable `text` unchanged, any other as `shown` shows it."""
    return text if text.isprintable() and len(text) <= _SHOWN_CHARS else shown(text)


@dataclass(slots=True)
class Cell:
    """A cell that is being parsed: its column, the folder of relative URIs, and the faults that parsers found."""

    column: str
    folder: str
    faults: list[Fault] = field(default_factory=list)

    def fault(self, at: str, got: object, expected: str) -> None:
        """Note that the value `got`, at the path `at` inside the cell, is wrong."""
        self.note(at, shown(got), expected)

    def note(self, at: str, got: str, expected: str) -> None:
        """Note a fault that describes the value in words, such as "9 references"."""
        self.faults.append(Fault(self.column + at, got, expected))


class Undecodable:
    """The value of a cell whose text is not UTF-8."""

    def __repr__(self) -> str:
        return "bytes that are not UTF-8 text"


Parser = Callable[[Any, Cell], Any]
Word = TypeVar("Word", bound=str)
Struct = TypeVar("Struct")
Parsed = TypeVar("Parsed")


class _BoxCell(TypedDict, total=False):
    x: float | None
    y: float | None
    width: float | None
    height: float | None
    frame: int | None
    object_id: int | None


class _PointCell(TypedDict, total=False):
    x: float | None
    y: float | None
    frame: int | None
    object_id: int | None
    positive: bool | None


class _LoraCell(TypedDict, total=False):
    uri: str | None
    weight: float | None
    expert: str | None


class _PickCell(TypedDict, total=False):
    exclude: list[str | None] | None
    largest: bool | None
    tracks: list[int | None] | None


class _ProtectCell(TypedDict, total=False):
    targets: list[str | None] | None
    boxes: list[_BoxCell | None] | None
    mask_uri: str | None


class _ExpandCell(TypedDict, total=False):
    left: float | None
    right: float | None
    up: float | None
    down: float | None
    inner: bool | None


class _ExtendCell(TypedDict, total=False):
    mode: str | None
    unit: str | None
    seconds: float | None


def _job_id(value: str, cell: Cell) -> str:
    if not value.strip() or value in (".", ".."):
        cell.fault("", value, "a name other than '', '.' and '..'")
    elif "\0" in value:
        cell.fault("", value, "text without NUL")
    elif len(value.encode()) > MAX_JOB_ID_BYTES:
        cell.note("", f"{len(value.encode()):,} bytes", f"at most {MAX_JOB_ID_BYTES} bytes")
    return value


def _uri(value: str, cell: Cell, at: str = "") -> str:
    try:
        return resolve_uri(value, cell.folder)
    except UriError as error:
        cell.fault(at, value, str(error))
        return value


def _choice(allowed: Sequence[Word]) -> Callable[..., Word]:
    def parse(value: str, cell: Cell, at: str = "") -> Word:
        if value not in allowed:
            cell.fault(at, value, f"one of {', '.join(allowed)}")
        return cast(Word, value)

    return parse


def _text(value: str, cell: Cell) -> str:
    if len(value) > MAX_PROMPT_CHARS:
        cell.note("", f"{len(value):,} characters", f"at most {MAX_PROMPT_CHARS:,} characters")
    elif "\0" in value:
        cell.fault("", value, "text without NUL")
    return value


def _labels(value: Sequence[str | None], cell: Cell, at: str = "") -> tuple[str, ...]:
    if len(value) > MAX_LABELS:
        cell.note(at, f"{len(value):,} classes", f"at most {MAX_LABELS}")
        return ()
    for index, label in enumerate(value):
        if label is None or not label.strip() or len(label) > MAX_LABEL_CHARS or not label.isprintable():
            cell.fault(f"{at}[{index}]", label, f"a class name of 1..{MAX_LABEL_CHARS} printable characters")
    return tuple(label.strip() for label in value if label)


def _weights(value: str, cell: Cell, at: str = "") -> str:
    """Check a name of weights: release names and hub ids stay as they are, URIs are resolved."""
    if not value.strip() or len(value) > MAX_JOB_ID_BYTES or not value.isprintable():
        cell.fault(at, value, "a path or a release name")
    elif "://" in value and not value.startswith("hf://"):
        return _uri(value, cell, at)
    return value


def _lora(value: _LoraCell, cell: Cell, at: str) -> LoraRef:
    uri, weight = value.get("uri") or "", value.get("weight")
    if uri.endswith(".safetensors"):
        uri = _weights(uri, cell, f"{at}.uri")
    else:
        cell.fault(f"{at}.uri", uri, "a .safetensors file: pickles can run code and are not read")
    return LoraRef(
        uri=uri,
        weight=1.0 if weight is None else _number(weight, *LORA_WEIGHT_RANGE, cell, f"{at}.weight"),
        expert=_choice(LORA_EXPERTS)(value.get("expert") or "both", cell, f"{at}.expert"),
    )


def _loras(value: Sequence[_LoraCell | None], cell: Cell) -> tuple[LoraRef, ...]:
    if len(value) > MAX_LORAS:
        cell.note("", f"{len(value):,} LoRAs", f"at most {MAX_LORAS}")
    loras = _structs(value[:MAX_LORAS], cell, "", _lora)
    return tuple(loras)


def _number(value: float | None, low: float, high: float, cell: Cell, at: str, unit: str = "") -> float:
    if value is None or not low <= value <= high:
        cell.fault(at, value, f"{low:,}..{high:,}{unit and ' ' + unit}")
        return 0.0
    return float(value)


def _integer(value: int | None, low: int, high: int, cell: Cell, at: str) -> int:
    if value is None or not low <= value <= high:
        cell.fault(at, value, f"{low:,}..{high:,}")
        return low
    return int(value)


def _side(value: float | None, cell: Cell, at: str) -> float:
    if value is None or not 0 < value <= MAX_COORDINATE_PX:
        cell.fault(at, value, f"above 0 and at most {MAX_COORDINATE_PX:,} px")
    return float(value or 0)


def _box(value: _BoxCell, cell: Cell, at: str) -> BoxKey:
    frame = value.get("frame")
    return BoxKey(
        x=_number(value.get("x"), -MAX_COORDINATE_PX, MAX_COORDINATE_PX, cell, f"{at}.x", "px"),
        y=_number(value.get("y"), -MAX_COORDINATE_PX, MAX_COORDINATE_PX, cell, f"{at}.y", "px"),
        width=_side(value.get("width"), cell, f"{at}.width"),
        height=_side(value.get("height"), cell, f"{at}.height"),
        frame=None if frame is None else _integer(frame, 0, MAX_FRAME, cell, f"{at}.frame"),
        object_id=_integer(value.get("object_id") or 0, 0, MAX_FRAME, cell, f"{at}.object_id"),
    )


def _structs(
    value: Sequence[Struct | None], cell: Cell, at: str, parse: Callable[[Struct, Cell, str], Parsed]
) -> list[Parsed]:
    parsed: list[Parsed] = []
    for index, item in enumerate(value):
        if item is None:
            cell.fault(f"{at}[{index}]", None, "a value")
        else:
            parsed.append(parse(item, cell, f"{at}[{index}]"))
    return parsed


def _boxes(value: Sequence[_BoxCell | None], cell: Cell, at: str = "") -> tuple[BoxKey, ...]:
    boxes = _structs(value, cell, at, _box)
    if len(boxes) > 1:
        _check_tracks(boxes, cell, at)
    return tuple(boxes)


def _check_tracks(boxes: Sequence[BoxKey], cell: Cell, at: str) -> None:
    still = {box.object_id for box in boxes if box.frame is None}
    seen: set[tuple[int, int]] = set()
    for box in boxes:
        if box.frame is None:
            continue
        if box.object_id in still:
            cell.fault(at, f"object {box.object_id}", "either keyframes or boxes for the whole clip")
            still.discard(box.object_id)
        if (box.object_id, box.frame) in seen:
            cell.fault(at, f"object {box.object_id} twice at frame {box.frame}", "one keyframe a frame and object")
        seen.add((box.object_id, box.frame))


def _point(value: _PointCell, cell: Cell, at: str) -> PointKey:
    positive = value.get("positive")
    return PointKey(
        x=_number(value.get("x"), 0, MAX_COORDINATE_PX, cell, f"{at}.x", "px"),
        y=_number(value.get("y"), 0, MAX_COORDINATE_PX, cell, f"{at}.y", "px"),
        frame=_integer(value.get("frame") or 0, 0, MAX_FRAME, cell, f"{at}.frame"),
        object_id=_integer(value.get("object_id") or 0, 0, MAX_FRAME, cell, f"{at}.object_id"),
        positive=True if positive is None else positive,
    )


def _points(value: Sequence[_PointCell | None], cell: Cell) -> tuple[PointKey, ...]:
    points = _structs(value, cell, "", _point)
    for object_id in sorted({point.object_id for point in points}):
        if not any(point.positive for point in points if point.object_id == object_id):
            cell.fault("", f"object {object_id} with background points only", "a positive point for each object")
    return tuple(points)


def _pick(value: _PickCell, cell: Cell) -> Pick:
    tracks = [_integer(number, 1, MAX_FRAME, cell, ".tracks") for number in value.get("tracks") or ()]
    exclude = _labels(value.get("exclude") or (), cell, ".exclude")
    return Pick(exclude=exclude, largest=bool(value.get("largest")), tracks=tuple(tracks))


def _protect(value: _ProtectCell, cell: Cell) -> Protect:
    mask_uri = value.get("mask_uri")
    return Protect(
        targets=_labels(value.get("targets") or (), cell, ".targets"),
        boxes=_boxes(value.get("boxes") or (), cell, ".boxes"),
        mask_uri=None if mask_uri is None else _uri(mask_uri, cell, ".mask_uri"),
    )


def _dilation(value: str, cell: Cell) -> Dilation | None:
    match = _DILATION.fullmatch(value.strip())
    amount = float(match[1]) if match else -1.0
    if not match or amount > MAX_DILATION[match[2].rstrip("s")]:
        most = f"0..{MAX_DILATION['px']}px, 0..{MAX_DILATION['%']}% or 0..{MAX_DILATION['token']}tokens"
        cell.fault("", value, f"a number and a unit: {most}, such as '6px', '5%' or '1token'")
        return None
    names = {"px": "px", "%": "percent", "token": "tokens"}
    return Dilation(**{names[match[2].rstrip("s")]: amount})


def _references(value: Sequence[str | None], cell: Cell) -> tuple[str, ...]:
    if len(value) > MAX_REFERENCES:
        cell.note("", f"{len(value):,} references", f"at most {MAX_REFERENCES}")
    return tuple(_uri(uri or "", cell, f"[{index}]") for index, uri in enumerate(value[:MAX_REFERENCES]))


def _joined(allowed: Sequence[str], ready_made: Sequence[str] = ()) -> Parser:
    """Make a parser of one word of `ready_made` (by default of `allowed`), or of two of `allowed` joined by '+'."""

    def parse(value: str, cell: Cell) -> str:
        parts = value.split("+")
        alone = ready_made or allowed
        if value not in alone and not (len(parts) == 2 and all(part in allowed for part in parts)):
            cell.fault("", value, f"one of {', '.join(alone)}, or two of {', '.join(allowed)} joined by '+'")
        return value

    return parse


def _expand(value: _ExpandCell, cell: Cell) -> Expand:
    given = {name: value.get(name) for name in _SIDES}
    sides = {name: _number(side, 0, 1, cell, f".{name}") for name, side in given.items() if side is not None}
    grown = Expand(**sides, inner=bool(value.get("inner")))
    if not any(sides.values()):
        cell.note("", "no side", "at least one of left, right, up, down above 0")
    if grown.inner and max(grown.left + grown.right, grown.up + grown.down) >= 1:
        cell.note("", "sides that cover the whole frame", "left + right and up + down below 1 with inner")
    return grown


def _extend(value: _ExtendCell, cell: Cell) -> Extend:
    seconds = value.get("seconds")
    made = Extend(
        mode=_choice(EXTEND_MODES)(value.get("mode") or "first", cell, ".mode"),
        unit=_choice(EXTEND_UNITS)(value.get("unit") or "clip", cell, ".unit"),
        seconds=None if seconds is None else _number(seconds, 0, MAX_TIME_S, cell, ".seconds", "s"),
    )
    if seconds is not None and made.mode == "firstlast":
        cell.fault(".seconds", seconds, "no value with firstlast, which bridges start_s to end_s")
    if seconds == 0:
        cell.fault(".seconds", seconds, "more than 0 s")
    return made


def _sampling(value: Mapping[str, Any], cell: Cell) -> Sampling:
    given = {name: part for name, part in value.items() if part is not None}
    for name, (low, high) in SAMPLING_RANGES.items():
        if name in given:
            given[name] = _number(given[name], low, high, cell, f".{name}")
    if "num_inference_steps" in given:
        _integer(given["num_inference_steps"], *STEPS_RANGE, cell, ".num_inference_steps")
    if "max_tokens" in given:
        _integer(given["max_tokens"], MIN_WINDOW_TOKENS, MAX_FRAME, cell, ".max_tokens")
    if "mask_rule" in given and given["mask_rule"] not in MASK_RULES:
        cell.fault(".mask_rule", given["mask_rule"], f"one of {', '.join(MASK_RULES)}")
    if given.get("guidance_from", 0) > given.get("guidance_until", 1):
        cell.fault(".guidance_from", given["guidance_from"], "at most guidance_until")
    _window_lengths(given.get("max_frames"), given.get("overlap_frames"), cell)
    return Sampling(**given)


def _window_lengths(max_frames: int | None, overlap: int | None, cell: Cell) -> None:
    low, high = WINDOW_FRAMES_RANGE
    longest = high
    if max_frames is not None:
        if low <= max_frames <= high and max_frames % 4 == 1:
            longest = max_frames
        else:
            cell.fault(".max_frames", max_frames, f"4n+1 in {low}..{high}")
    if overlap is not None and not 0 <= overlap < longest:
        cell.fault(".overlap_frames", overlap, f"0..{longest - 1}, below max_frames")


def _output(value: str, cell: Cell) -> str:
    parts = value.split("/")
    if (
        any(part in ("", ".", "..") or len(part.encode()) > 200 for part in parts)
        or len(value.encode()) > MAX_JOB_ID_BYTES
        or "\\" in value
        or ":" in value
        or not value.isprintable()
        or not _OUTPUT_SUFFIX.fullmatch(parts[-1])
    ):
        cell.fault("", value, "a relative path below OUT/videos with a suffix, such as 'news/0042.mp4'")
    return value


def _seconds(value: float, cell: Cell) -> float:
    return _number(value, 0, MAX_TIME_S, cell, "", "s")


PARSERS: dict[str, Parser] = {
    "job_id": _job_id,
    "video_uri": _uri,
    "task": _choice(TASKS),
    "targets": _labels,
    "pick": _pick,
    "boxes": _boxes,
    "points": _points,
    "mask_uri": _uri,
    "protect": _protect,
    "detector": _weights,
    "segmenter": _weights,
    "mask_shape": _choice(MASK_SHAPES),
    "mask_shadow": _choice(SWITCHES),
    "background": _choice(SWITCHES),
    "dilate": _dilation,
    "prompt": _text,
    "negative_prompt": _text,
    "reference_uris": _references,
    "reference_boxes": _boxes,
    "reference_mask_uris": _references,
    "reference_mode": _choice(REFERENCE_MODES),
    "reference_background": _choice(REFERENCE_BACKGROUNDS),
    "control": _joined(CONTROLS),
    "control_weights": _weights,
    "expand": _expand,
    "extend": _extend,
    "compose": _joined(PROCESSES, tuple(COMPOSITIONS)),
    "start_s": _seconds,
    "end_s": _seconds,
    "seed": lambda value, cell: _integer(value, 0, MAX_SEED, cell, ""),
    "seed_scope": _choice(SEED_SCOPES),
    "preset": _choice(tuple(PRESETS)),
    "priority": lambda value, cell: _integer(value, *PRIORITY_RANGE, cell, ""),
    "model": _weights,
    "loras": _loras,
    "sampling": _sampling,
    "expect_found": lambda value, cell: value,
    "output_uri": _output,
}
