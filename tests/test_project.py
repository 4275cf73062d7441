"""The project itself: packaging, pins, rooms and import contracts, and the environment's stamp."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vace_batch

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def env() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house_env", ROOT / ".ci" / "env.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    unpinned = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+", line)]
    assert unpinned == []
    return {canonicalize_name(name): number for name, number in (line.split("==") for line in lines)}


def requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    return [Requirement(line) for line in [*PROJECT["project"]["dependencies"], *extras["prefect"], *extras["dev"]]]


def test_everything_asked_for_is_pinned_to_a_version_that_was_asked_for() -> None:
    pinned = pins()
    wrong = [
        str(one) for one in requirements() if not one.specifier.contains(pinned.get(canonicalize_name(one.name), ""))
    ]
    assert wrong == []


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned, wrong = pins(), []
    for name in sorted({canonicalize_name(one.name) for one in requirements()}):
        try:
            found = version(name)
        except PackageNotFoundError:
            found = version("opencv-python-headless") if name == "opencv-python" else "none"
        if found != pinned[name]:
            wrong.append(f"{name}: pinned {pinned[name]}, installed {found}")
    assert wrong == []


def test_both_opencv_wheels_are_of_one_version() -> None:
    assert pins()["opencv-python"] == pins()["opencv-python-headless"]


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def layers() -> list[list[str]]:
    """Rooms and modules of the package by the lines of the contract, from the top."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    [contract] = [each for each in contracts if each.get("containers") == ["vace_batch"]]
    return [line.split(" | ") for line in contract["layers"]]


def rooms() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "vace_batch").glob("*/__init__.py"))


def docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, path
    return text


def imported_by(room: str) -> set[str]:
    """Rooms and modules of the package that `room` imports, also inside functions and for type checkers."""
    names: set[str] = set()
    for path in (ROOT / "vace_batch" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    ours = {name.split(".")[1] for name in names if name.startswith("vace_batch.")}
    return ours - {room}


def named_in(room: str) -> set[str]:
    """Rooms that a room's docstring says it may import."""
    text = " ".join(docstring(ROOT / "vace_batch" / room / "__init__.py").split())
    found = re.search(r"May import (?:no other room|the rooms? ([a-z_, ()]+))\.", text)
    assert found, f"{room}: its docstring does not say what it may import"
    return set(re.findall(r"[a-z_]+", re.sub(r"\([^)]*\)", "", found[1] or ""))) - {"and"}


@pytest.mark.parametrize("room", rooms())
def test_a_room_says_what_it_is_and_imports_only_the_rooms_that_it_names(room: str) -> None:
    text = docstring(ROOT / "vace_batch" / room / "__init__.py")
    assert len(re.findall(r"[.]\s", text + "\n")) >= 2, "one sentence what it is, one what it may import"
    (own,) = [number for number, line in enumerate(layers()) if room in line]
    below = {name for line in layers()[own + 1 :] for name in line}
    assert named_in(room) <= below & set(rooms()), "the contract forbids it"
    assert imported_by(room) & set(rooms()) <= named_in(room)


def test_the_way_of_the_data_is_told_in_the_contract_s_order() -> None:
    found = re.search(r"The way of the data: ([a-z, ]+)\.", docstring(ROOT / "vace_batch" / "__init__.py"))
    assert found
    told = found[1].split(", ")
    line_of = {name: number for number, line in enumerate(layers()) for name in line}
    lines = [line_of[name] for name in told]
    assert lines == sorted(lines, reverse=True), "from the bottom of the contract to its top"
    first, last = line_of[told[0]], line_of[told[-1]]
    between = {name for name, line in line_of.items() if last <= line <= first}
    assert between == set(told), "every room between the first and the last is on the way"


def test_the_core_does_not_load_prefect_and_planning_does_not_load_torch() -> None:
    rooms = "vace_batch.planning.windows, vace_batch.manifest.reader"
    code = f"import sys, {rooms}; print({{'prefect', 'torch', 'ray', 'cv2'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_version_is_the_package_s() -> None:
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "vace_batch.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", vace_batch.__version__)


def test_the_readme_names_every_link_and_make_target_rightly() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/decisions/README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [
        link for link in links if not (ROOT / link).exists() and not (ROOT / "docs/decisions" / link).exists()
    ] == []


def test_no_file_is_over_a_megabyte_and_no_module_over_500_lines() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    weights = (".onnx", ".safetensors")
    assert [file.name for file in files if file.stat().st_size > 1_000_000 and file.suffix not in weights] == []
    modules = [file for file in files if file.suffix == ".py" and "tests" not in file.parts]
    assert [file.name for file in modules if file.read_bytes().count(b"\n") > 500] == []


def fake_environment(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").touch()
    return folder


def stamped(env: ModuleType, folder: Path, **changes: str) -> Path:
    (folder / env.STAMP).write_text(json.dumps({**env.stamp_of(ROOT), **changes}))
    return folder


def test_an_environment_is_reused_until_what_decides_it_changes(env: ModuleType, tmp_path: Path) -> None:
    wanted = env.stamp_of(ROOT)
    folder = fake_environment(tmp_path / "venv")
    assert env.need(folder, wanted) == "install"
    assert env.need(stamped(env, folder), wanted) == "nothing"
    assert env.need(stamped(env, folder, checkout="/elsewhere"), wanted) == "editable"
    assert env.need(stamped(env, folder, pins="old", checkout="/elsewhere"), wanted) == "install"
    assert env.need(stamped(env, folder, python="3.9"), wanted) == "rebuild"


def test_an_interrupted_install_and_a_dead_python_mean_a_new_environment(env: ModuleType, tmp_path: Path) -> None:
    wanted = env.stamp_of(ROOT)
    folder = stamped(env, fake_environment(tmp_path / "venv"))
    (folder / env.MARKER).touch()
    assert env.need(folder, wanted) == "rebuild"
    (folder / env.MARKER).unlink()
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python")
    assert env.need(folder, wanted) == "rebuild"


def test_the_stamp_follows_pins_and_dependencies_but_not_tool_settings(env: ModuleType, tmp_path: Path) -> None:
    def write(pyproject: str, constraints: str = "a==1\n") -> str:
        (tmp_path / "pyproject.toml").write_text(pyproject)
        (tmp_path / "constraints.txt").write_text(constraints)
        pins: str = env.stamp_of(tmp_path)["pins"]
        return pins

    base = '[build-system]\nrequires = []\n[project]\ndependencies = ["a"]\n'
    first = write(base)
    assert write(base + "[tool.ruff]\nline-length = 90\n") == first
    assert write(base, "a==2\n") != first
    assert write(base.replace('"a"', '"b"')) != first


def test_a_folder_that_is_no_environment_is_never_emptied(env: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="VACE_BATCH_VENV"):
        env.clear(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_rebuild_empties_the_folder_and_keeps_its_marker(env: ModuleType, tmp_path: Path) -> None:
    folder = stamped(env, fake_environment(tmp_path / "venv"))
    (folder / "lib" / "half").mkdir(parents=True)
    (folder / "lib64").symlink_to("lib")
    seen: list[set[str]] = []

    class Builder:
        def __init__(self, **_: object) -> None: ...

        def create(self, made: Path) -> None:
            seen.append({entry.name for entry in made.iterdir()})

    original, env.venv.EnvBuilder = env.venv.EnvBuilder, Builder
    try:
        env.clear(folder)
    finally:
        env.venv.EnvBuilder = original
    assert seen == [{env.MARKER}]


def test_two_makes_wait_for_each_other(env: ModuleType, tmp_path: Path) -> None:
    code = (
        "import importlib.util, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('e', {str(ROOT / '.ci/env.py')!r})\n"
        "e = importlib.util.module_from_spec(spec); spec.loader.exec_module(e)\n"
        f"with e.locked(pathlib.Path({str(tmp_path)!r})): print('second', flush=True)"
    )
    with env.locked(tmp_path):
        second = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None and "waiting" in second.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(timeout=0.5)
    assert second.communicate(timeout=20)[0] == "second\n"


def test_an_old_python_is_named(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$*" in --version) echo Python 3.8.1;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", ROOT / ".ci" / "with-python", "-c", "pass"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "needs Python 3.11, 3.12 or 3.13; found Python 3.8.1" in done.stderr


def test_a_good_python_is_found_behind_a_bad_one(tmp_path: Path) -> None:
    bad = tmp_path / "python3.11"
    bad.write_text("#!/bin/sh\nexit 1\n")
    bad.chmod(0o755)
    (tmp_path / "python3").symlink_to(os.path.realpath(sys.executable))
    done = subprocess.run(
        ["/bin/sh", ROOT / ".ci" / "with-python", "-c", "print('hello')"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
