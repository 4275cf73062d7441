"""Test the files of infra/ray-up with Ray's own validators, EC2's own model of an instance, and further checks."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

from tests.infra.versions import INFRA, VERSION

CLOUDS = ("aws", "gcp")
_GCP_FIELDS = {
    "machineType",
    "disks",
    "serviceAccounts",
    "scheduling",
    "labels",
    "tags",
    "metadata",
    "networkInterfaces",
}
_GCP_DISK = {"boot", "autoDelete", "type", "initializeParams"}
_GCP_SCHEDULING = {"provisioningModel", "instanceTerminationAction", "onHostMaintenance", "automaticRestart"}


def cluster(cloud: str) -> dict[str, Any]:
    text = (INFRA / "ray-up" / f"{cloud}.yaml").read_text()
    found: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(text)))
    return found


def faults(config: dict[str, Any]) -> list[str]:
    found = []
    try:
        validate_config(prepare_config(deepcopy(config)))
    except (ValueError, KeyError, jsonschema.ValidationError) as error:
        found.append(f"Ray: {str(error)[:300]}")
    nodes = config["available_node_types"]
    for name, node in nodes.items():
        least, most = node.get("min_workers", 0), node.get("max_workers", 0)
        found += [f"{name}: min_workers {least} > max_workers {most}"] if least > most else []
        fields = ec2_faults if config["provider"]["type"] == "aws" else gce_faults
        found += [f"{name}: {fault}" for fault in fields(node["node_config"])]
        gpus = node["resources"].get("GPU", 0)
        if gpus and node["resources"]["CPU"] != gpus:
            found.append(f"{name}: a VACE actor takes one CPU beside its GPU, and nothing else fits here")
    if nodes[config["head_node_type"]]["resources"].get("CPU") != 0:
        found.append("the head offers CPUs: work would be lost with it")
    if sum(node.get("max_workers", 0) for node in nodes.values()) > config["max_workers"]:
        found.append("max_workers is below the sum of the groups'")
    if not config["docker"]["image"].endswith(f"/vace-batch:{VERSION}-gpu"):
        found.append(f"image {config['docker']['image']}, expected version {VERSION}")
    return found + [fault for line in start_lines(config) for fault in start_faults(line)]


def ec2_faults(node: dict[str, Any]) -> Iterator[str]:
    """Find faults by the model with which boto3 checks a request."""
    shape = _ec2().operation_model("RunInstances").input_shape
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node}, shape)
    if report.has_errors():
        yield report.generate_report()
    market = node.get("InstanceMarketOptions", {}).get("MarketType", "spot")
    if market not in _ec2().shape_for("MarketType").enum:
        yield f"MarketType {market}"


@functools.cache
def _ec2() -> Any:
    return botocore.session.get_session().get_service_model("ec2")


def gce_faults(node: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown field {name}" for name in set(node) - _GCP_FIELDS)
    for disk in node["disks"]:
        yield from (f"unknown field disks.{name}" for name in set(disk) - _GCP_DISK)
    scheduling = node.get("scheduling", {})
    yield from (f"unknown field scheduling.{name}" for name in set(scheduling) - _GCP_SCHEDULING)
    if node["machineType"].startswith(("g2-", "a2-", "a3-")) and scheduling.get("onHostMaintenance") != "TERMINATE":
        yield "a machine with a GPU cannot be moved: onHostMaintenance TERMINATE"


def start_lines(config: dict[str, Any]) -> list[str]:
    lines = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [line for line in lines if line.startswith("ray start")]


def start_faults(line: str) -> list[str]:
    try:
        ray_start.make_context("start", line.split()[2:])
    except Exception as error:  # whatever click says of it is the fault
        return [f"{line}: {error}"]
    return []


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_cluster_is_what_ray_and_the_cloud_take(cloud: str) -> None:
    assert faults(cluster(cloud)) == []


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def put(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value

    return put


@pytest.mark.parametrize(
    ("cloud", "path", "value", "said"),
    [
        ("aws", "max_worker", 3, "Ray:"),
        ("aws", "head_node_type", "haed", "haed"),
        ("aws", "available_node_types.mask-cpu.min_worker", 1, "Ray:"),
        ("aws", "available_node_types.mask-cpu.min_workers", 9, "min_workers 9 > max_workers 8"),
        ("aws", "available_node_types.mask-cpu.resources.CPU", "4", "Ray:"),
        (
            "aws",
            "available_node_types.mask-cpu.node_config.InstanceTypo",
            "m7i",
            'Unknown parameter in input: "InstanceTypo"',
        ),
        ("aws", "available_node_types.mask-cpu.node_config.InstanceMarketOptions", {"MarketTyp": "spot"}, "MarketTyp"),
        ("aws", "available_node_types.mask-cpu.node_config.InstanceMarketOptions", {"MarketType": "sport"}, "sport"),
        ("aws", "available_node_types.head.resources.CPU", 2, "the head offers CPUs"),
        ("aws", "max_workers", 20, "below the sum"),
        ("aws", "docker.image", "x/vace-batch:0.0.9-gpu", "expected version"),
        ("aws", "worker_start_ray_commands", ["ray start --addres=x"], "--addres"),
        ("aws", "available_node_types.vace-gpu-spot.resources.CPU", 8, "takes one CPU"),
        ("gcp", "available_node_types.mask-cpu.node_config.machinetype", "e2", "unknown field machinetype"),
        ("gcp", "available_node_types.mask-cpu.node_config.scheduling", {"preemtible": True}, "scheduling.preemtible"),
        ("gcp", "available_node_types.vace-gpu-spot.node_config.scheduling", {}, "cannot be moved"),
    ],
)
def test_each_fault_that_is_put_in_is_found(cloud: str, path: str, value: Any, said: str) -> None:
    config = cluster(cloud)
    try:
        change(path, value)(config)
        found = faults(config)
    except KeyError as error:
        found = [str(error)]
    assert any(said in fault for fault in found), found


class Metadata(http.server.BaseHTTPRequestHandler):
    """A machine's metadata service, which announces the machine's end at the third request."""

    asked = 0

    def do_PUT(self) -> None:
        self._say(200, b"token")

    def do_GET(self) -> None:
        right = "token" in self.headers.get("X-aws-ec2-metadata-token", "") or self.headers.get("Metadata-Flavor")
        Metadata.asked += 1
        if not right:
            self._say(401, b"")
        elif Metadata.asked < 3:
            self._say(404 if "spot" in self.path else 200, b"FALSE")
        else:
            self._say(200, b'{"action": "terminate"}' if "spot" in self.path else b"TRUE")

    def _say(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize(("cloud", "seconds"), [("aws", "90"), ("gcp", "20")])
def test_a_spot_notice_drains_the_node(cloud: str, seconds: str, tmp_path: Path) -> None:
    drained = tmp_path / "drained"
    (tmp_path / "drain-node").write_text(f'#!/bin/sh\necho "$1" >{drained}\n')
    (tmp_path / "drain-node").chmod(0o755)
    Metadata.asked = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "SPOT_METADATA": f"http://127.0.0.1:{server.server_port}",
            "SPOT_EVERY_S": "0.1",
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        }
        subprocess.run([INFRA / "docker" / "spot-watch", cloud], env=environment, check=True, capture_output=True)
        server.shutdown()
    assert drained.read_text().strip() == seconds
    assert Metadata.asked == 3
