"""The members of ultralytics that no documentation promises are there, and used in one file."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from pathlib import Path

import pytest

from vace_batch import masks
from vace_batch.masks.detectors.ultralytics_private import ULTRALYTICS_MEMBERS
from vace_batch.masks.detectors.yolo import import_ultralytics

ROOM = Path(masks.__file__).parent
HERE = ROOM / "detectors" / "ultralytics_private.py"


def members_of(cls: type) -> set[str]:
    """Return the attributes of a class, and the attributes that its methods read or set on `self`."""
    names = set(dir(cls))
    for base in cls.__mro__:
        if base.__module__.startswith("ultralytics."):
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
                # `getattr(self, "txt_feats", ...)`
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
                    names.update(arg.value for arg in node.args if isinstance(arg, ast.Constant))
    return names


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in ULTRALYTICS_MEMBERS.items() for name in names]
)
def test_a_private_member_of_ultralytics_is_there(path: str, name: str) -> None:
    import_ultralytics()
    module, _, cls = path.partition(":")
    assert name in members_of(getattr(importlib.import_module(module), cls)), f"ultralytics has no {path}.{name}"


def private_members(file: Path) -> set[str]:
    """Names with an underscore that are taken from anything but `self` and `cls`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and ast.unparse(node.value) not in ("self", "cls")
    }


def test_private_members_are_used_in_one_file_and_listed() -> None:
    listed = {name for names in ULTRALYTICS_MEMBERS.values() for name in names}
    assert private_members(HERE) and private_members(HERE) <= listed
    assert [file.name for file in ROOM.rglob("*.py") if file != HERE and private_members(file)] == []
