"""The command line against the model: an option has its field's description, default, bounds and choices."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import annotated_types
import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vace_batch.cli.app import app
from vace_batch.cli.options import (
    ACTORS,
    AFTERWARDS,
    BOUNDS,
    COSTS,
    DETECTOR,
    FINDERS,
    MODEL,
    PIXELS,
    PLACES,
    Flag,
    options_from,
)
from vace_batch.errors import UsageError
from vace_batch.options import EngineSettings, Options

FLAGS = (*FINDERS, *PLACES, *PIXELS, *ACTORS, *AFTERWARDS, *COSTS, *BOUNDS)
GROUP: Any = typer.main.get_command(app)
BY_TEXT = {"--lora", "--preset", "--engine", "--quality", "--price", "--limit", "--calibration"}
"""Options whose text is parsed into a model of its own, which has the bounds."""
NOT_A_FLAG = {"attempts.remedies"}
"""Fields without an option: Python and flows set them."""
SHORT_FORMS = {"engine.deterministic"}
"""Fields with an option of their own beside the option that gives all settings of their group."""


def field_at(path: str) -> FieldInfo:
    model: Any = Options
    *parents, last = path.split(".")
    for parent in parents:
        model = model.model_fields[parent].annotation
    field: FieldInfo = model.model_fields[last]
    return field


def param_of(command: str, flag: Flag) -> Any:
    [param] = [each for each in GROUP.commands[command].params if flag.name in each.opts]
    return param


def choices_of(annotation: Any) -> tuple[str, ...]:
    for kind in (annotation, *get_args(annotation)):
        if get_origin(kind) is Literal:
            return get_args(kind)
    return ()


def help_record(command: str, param: Any) -> str:
    context = GROUP.commands[command].make_context(command, [], resilient_parsing=True)
    return " ".join(param.get_help_record(context))


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_an_option_is_described_defaulted_and_bounded_as_its_field(flag: Flag) -> None:
    param, field = param_of("run", flag), field_at(flag.field)
    assert param.help == field.description and param.help
    assert not param.required
    if flag.parse is None:
        assert param.default == (field.default - flag.offset if flag.offset else field.default)
    else:
        assert not param.default, "an option that is parsed says nothing unless given: the model has the default"
    bounds = {type(each): each for each in field.metadata}
    assert set(bounds) <= {annotated_types.Ge, annotated_types.Le}, "Typer has no open bounds"
    assert flag.name not in BY_TEXT or not bounds
    least, most = bounds.get(annotated_types.Ge), bounds.get(annotated_types.Le)
    assert param.min == (least and least.ge - flag.offset) and param.max == (most and most.le - flag.offset)
    shown = help_record("run", param)
    assert all(choice in shown for choice in choices_of(field.annotation))


def test_every_field_has_one_option() -> None:
    every = [flag.field for flag in FLAGS]
    assert len(set(every)) == len(every) and len({flag.name for flag in FLAGS}) == len(FLAGS)
    given = [path for path in every if path.partition(".")[0] not in every or "." not in path]
    assert set(every) - set(given) == SHORT_FORMS
    held = {path.partition(".")[0] for path in given if "." in path}
    fields = {name for name in Options.model_fields if name not in held}
    for name in held:
        kind: Any = Options.model_fields[name].annotation
        assert issubclass(kind, BaseModel)
        fields |= {f"{name}.{inner}" for inner in kind.model_fields}
    assert fields - set(given) == NOT_A_FLAG and not set(given) - fields


def test_the_same_option_is_the_same_in_every_command() -> None:
    """An option of a flag's name that is no flag's would be described a second time."""
    own_meaning = {("retry", "--model"): "Short for --set model=MODEL.", ("convert", "--allow-pickle"): None}
    by_name = {flag.name: flag for flag in FLAGS}
    for command_name, command in GROUP.commands.items():
        for param in command.params:
            for name in set(param.opts) & set(by_name):
                if (command_name, name) not in own_meaning:
                    assert param.help == field_at(by_name[name].field).description, (command_name, name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--feather-px 65", "feather"),
        ("--max-batch 65", "max-batch"),
        ("--crf 52", "crf"),
        ("--retries 9", "retries"),
        ("--detect-every 0", "detect-every"),
        ("--unit-time-limit 0.5", "unit-time-limit"),
        ("--tracker sort", "tracker.*bytetrack.*botsort"),
        ("--keep-masks gif", "keep-masks.*ffv1.*png.*coco.*parquet"),
    ],
)
def test_a_value_out_of_range_is_wrong_usage(words: str, message: str) -> None:
    """Refuse the value in Typer, as the model would, never with a traceback."""
    with pytest.raises(Exception) as caught:
        GROUP.commands["run"].make_context("run", ["m.parquet", "-o", "out", *words.split()])
    error: Any = caught.value  # Typer has a click of its own, whose exceptions are not click's
    assert error.exit_code == 2 and re.search(message, error.format_message())


def test_flags_that_are_not_given_leave_the_defaults() -> None:
    assert options_from(dict.fromkeys(FLAGS)) == Options()
    assert options_from({MODEL: "m", DETECTOR: None}) == Options(model="m")
    retries, limit = AFTERWARDS[2], PLACES[3]
    engine, deterministic = PIXELS[5], PIXELS[6]
    assert options_from({engine: ["devices=2"], deterministic: True}).engine == EngineSettings(
        devices=2, deterministic=True
    )
    assert options_from({engine: ["deterministic=true"], deterministic: False}).engine.deterministic
    assert options_from({engine: [], deterministic: True}).engine == EngineSettings(deterministic=True)
    assert options_from({retries: 2}).attempts.max_attempts == 3
    with pytest.raises(UsageError, match="--limit"):
        options_from({limit: ["frames=1"]})
