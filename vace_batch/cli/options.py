"""Options of the command line: one `Flag` for a field of `Options`, from which help, default, range and choices come.

    FIELD IN Options  ->  Flag(field, name, parse)  ->  Typer's option  ->  text  ->  parse  ->  Options

Arguments and options that are no field of `Options` stand as aliases at the end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vace_batch.cli.parsing import (
    parse_engine,
    parse_limits,
    parse_loras,
    parse_pickles,
    parse_presets,
    parse_prices,
    parse_quality,
    parse_roots,
    read_calibration,
)
from vace_batch.options import Options

Command = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One option of the command line for the field of `Options` at the dotted path `field`.

    Without `parse` the option has the field's type; with `parse` its values are text, a list of texts where `repeats`.
    The field's value is the option's plus `offset`.
    """

    field: str
    name: str
    metavar: str | None = None
    parse: Callable[[Any], Any] | None = None
    repeats: bool = False
    envvar: str | None = None
    offset: int = 0

    @property
    def key(self) -> str:
        """Name of the command's parameter."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def info(self) -> FieldInfo:
        """The field in `Options`, or in the settings that a field of `Options` holds."""
        model: type[BaseModel] = Options
        *parents, last = self.field.split(".")
        for parent in parents:
            kind = model.model_fields[parent].annotation
            assert isinstance(kind, type) and issubclass(kind, BaseModel)
            model = kind
        return model.model_fields[last]

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Smallest and largest value of the option."""
        least, most = None, None
        for constraint in self.info.metadata:
            if isinstance(constraint, annotated_types.Ge):
                least = constraint.ge
            if isinstance(constraint, annotated_types.Le):
                most = constraint.le
        return _less(least, self.offset), _less(most, self.offset)

    def parameter(self) -> inspect.Parameter:
        """The option as a parameter of a command, in the form that Typer reads."""
        least, most = self.bounds
        option = typer.Option(
            self.name, metavar=self.metavar, envvar=self.envvar, help=self.info.description, min=least, max=most
        )
        kind, default = self.info.annotation, None
        if self.parse is not None:
            kind = list[str] | None if self.repeats else str | None
        elif self.info.default is not None:
            default = self.info.default - self.offset if self.offset else self.info.default
        return inspect.Parameter(
            self.key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
        )

    def value(self, given: Any) -> Any:
        """The field's value for the option's.

        Raises:
            UsageError: the text has another form.
        """
        if self.parse is not None:
            return self.parse(given)
        return given + self.offset if self.offset else given


def _less(bound: Any, offset: int) -> float | None:
    return None if bound is None else bound - offset


MODEL = Flag(field="model", name="--model")
DETECTOR = Flag(field="detector", name="--detector")
FINDERS = (
    DETECTOR,
    Flag(field="segmenter", name="--segmenter"),
    Flag(field="tracker", name="--tracker"),
)
"""Models that find and follow objects."""

ALLOW_ROOT = Flag(
    field="allow_roots",
    name="--allow-root",
    metavar="PLACE",
    parse=parse_roots,
    repeats=True,
    envvar="VACE_BATCH_ALLOW_ROOT",
)
PLACES = (
    Flag(field="weights_folders", name="--weights", metavar="PLACE", parse=tuple, repeats=True),
    Flag(
        field="pickles",
        name="--allow-pickle",
        metavar="SHA256",
        parse=parse_pickles,
        repeats=True,
        envvar="VACE_BATCH_ALLOW_PICKLE",
    ),
    ALLOW_ROOT,
    Flag(field="media", name="--limit", metavar="NAME=VALUE", parse=parse_limits, repeats=True),
)
"""Files that a manifest's rows may read, and their limits."""

PIXELS = (
    MODEL,
    Flag(field="depth", name="--depth"),
    Flag(field="pose", name="--pose"),
    Flag(field="loras", name="--lora", metavar="[PRESET:][high:|low:]FILE[=WEIGHT]", parse=parse_loras, repeats=True),
    Flag(field="presets", name="--preset", metavar="PRESET:NAME=VALUE[,...]", parse=parse_presets, repeats=True),
    Flag(field="engine", name="--engine", metavar="NAME=VALUE", parse=parse_engine, repeats=True),
    Flag(field="engine.deterministic", name="--deterministic"),
    Flag(field="detect_every", name="--detect-every"),
    Flag(field="crf", name="--crf"),
    Flag(field="feather_px", name="--feather-px"),
)
"""Everything else that decides pixels."""

CPU_ACTORS = Flag(field="cpu_actors", name="--cpu-actors")
GPU_ACTORS = Flag(field="gpu_actors", name="--gpu-actors")
ACTORS = (
    CPU_ACTORS,
    GPU_ACTORS,
    Flag(field="min_cpu_actors", name="--min-cpu-actors"),
    Flag(field="min_gpu_actors", name="--min-gpu-actors"),
    Flag(field="max_batch", name="--max-batch"),
    Flag(field="payload_mb", name="--payload-mb", metavar="MIB"),
    Flag(field="unit_time_limit_s", name="--unit-time-limit", metavar="SECONDS"),
)
"""Number of processes, and the size and time of their steps."""

AFTERWARDS = (
    Flag(field="keep_masks", name="--keep-masks"),
    Flag(field="quality", name="--quality", metavar="CHECK=REVIEW[:FAIL]", parse=parse_quality, repeats=True),
    Flag(field="attempts.max_attempts", name="--retries", offset=1),
    Flag(field="attempts.model", name="--retry-model", metavar="MODEL"),
    Flag(field="expect_found", name="--expect-found"),
)
"""Checks of a finished clip, and further attempts."""

COSTS = (
    Flag(
        field="prices",
        name="--price",
        metavar="NAME=VALUE",
        parse=parse_prices,
        repeats=True,
        envvar="VACE_BATCH_PRICE",
    ),
    Flag(
        field="calibration",
        name="--calibration",
        metavar="FILE",
        parse=read_calibration,
        envvar="VACE_BATCH_CALIBRATION",
    ),
)
"""Prices and measured rates."""

BOUNDS = (
    Flag(field="budget.max_gpu_hours", name="--max-gpu-hours"),
    Flag(field="budget.max_cost", name="--max-cost"),
)
"""Bounds at which a run stops by itself."""


def with_options(*flags: Flag) -> Callable[[Command], Command]:
    """Add `flags` to a command; the command gets their values as its argument `options`, an `Options`."""

    def add(command: Command) -> Command:
        own = [each for each in _parameters(command) if each.name != "options"]

        def run(**given: Any) -> None:
            options = options_from({flag: given.pop(flag.key, None) for flag in flags})
            command(**given, options=options)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        signature = inspect.Signature([*own, *(flag.parameter() for flag in flags)])
        run.__signature__ = signature  # type: ignore[attr-defined]  # PEP 362: Typer builds a command from it
        return run

    return add


def _parameters(command: Command) -> list[inspect.Parameter]:
    hints = get_type_hints(command, include_extras=True)
    return [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[each.name])
        for each in inspect.signature(command).parameters.values()
    ]


def options_from(given: Mapping[Flag, object]) -> Options:
    """`Options` with the fields of the flags that were given, the others at their defaults.

    Raises:
        UsageError: a text has another form than its flag's.
    """
    fields: dict[str, Any] = {}
    for flag, value in given.items():
        if value is None or value is False or value == []:
            continue
        parent, _, name = flag.field.rpartition(".")
        parsed = {name: flag.value(value)}
        if parent:
            settings = fields.get(parent, {})
            whole = isinstance(settings, BaseModel)  # of a flag before this one, such as --engine
            parsed = {parent: settings.model_copy(update=parsed) if whole else settings | parsed}
        fields |= parsed
    return Options.model_validate(fields)


ManifestArg = Annotated[str, typer.Argument(metavar="MANIFEST", help="Parquet manifest: a path or an fsspec URI.")]
OutArg = Annotated[str, typer.Argument(metavar="OUT", help="Output folder of an earlier run.")]
OutOption = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="Output folder: a path or an fsspec URI.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
