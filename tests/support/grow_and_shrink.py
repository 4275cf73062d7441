"""Run on a cluster that Ray's autoscaler grows and shrinks; print the events as one JSON object.

A program of its own: `python -m tests.support.grow_and_shrink FOLDER`. The machines are raylets of Ray's provider for
tests, started and stopped by the real autoscaler in the head's monitor. `ray.cluster_utils.AutoscalingCluster` would do
the same, but it wants a file that Ray's wheel lacks, and it stops every Ray of this machine, other people's too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.s3_server import free_ports

os.environ["RAY_AUTH_MODE"] = "disabled"  # `ray start` would make a token, and keep it in the user's home

from vace_batch.cluster.runtime import Runtime  # noqa: E402  # first: it quiets Ray before Ray is imported
from vace_batch.cluster.units import Failure, PoolSpec, Unit

import ray  # isort: skip
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID  # isort: skip

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
MOST = 3
POOL = PoolSpec(name="cpu", num_actors=MOST, min_actors=0, idle_s=5.0, setup_limit_s=600.0)
PATIENCE_S = 400.0


class Finished:
    def __init__(self) -> None:
        self.done: list[str] = []

    def on_done(self, unit: Unit, meta: object) -> Iterable[Unit]:
        self.done.append(unit.unit_id)
        return ()

    def on_failed(self, unit: Unit, failure: Failure) -> Iterable[Unit]:
        raise AssertionError(failure)


def unit(name: str, fn: str, payload: str) -> Unit:
    return Unit(kind="any", key=name, pool="cpu", fn=f"tests.support.workers:{fn}", payload=payload)


@contextmanager
def scaling_cluster(folder: Path) -> Iterator[str]:
    """A head without CPUs and an autoscaler that may add machines of one CPU; yields its address."""
    port, client_port = free_ports(2)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    provider = {"type": "external", "module": PROVIDER, "use_node_id_as_ip": True, "disable_node_updaters": True}
    provider |= {"disable_launch_config_check": True, "launch_multiple": True, "gcs_address": address}
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 8},
    }
    config = {"cluster_name": "test", "max_workers": 8, "idle_timeout_minutes": 0.1, "upscaling_speed": 10.0}
    config |= {"provider": {**provider, "head_node_id": FAKE_HEAD_NODE_ID}, "available_node_types": kinds}
    config |= {"head_node_type": "ray.head.default", "auth": {}, "file_mounts": {}, "cluster_synced_files": []}
    config |= {"file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": []}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config |= {f"{name}_commands": [] for name in commands}
    (folder / "scaling.json").write_text(json.dumps(config))
    command = ["ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    command += ["--dashboard-agent-listen-port=0"]
    command += [f"--ray-client-server-port={client_port}", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--temp-dir={folder}", f"--autoscaling-config={folder}/scaling.json"]
    more = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1"}
    more |= {"RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=os.environ | more, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: head.poll() is not None or "Ray runtime started" in (folder / "head.log").read_text())
        assert head.poll() is None, (folder / "head.log").read_text()
        yield address
    finally:
        for pid in [head.pid, *_of(folder)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()


def _of(folder: Path) -> list[int]:
    """Every process of this cluster: all of them name its folder."""
    return [process.pid for process in psutil.process_iter() if str(folder) in " ".join(_command(process))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return [] if process.pid == os.getpid() else process.cmdline()
    except psutil.Error:
        return []


def machines() -> int:
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def main(folder: Path) -> None:
    graph, seen, shrunk = Finished(), {}, folder / "shrunk"
    deadline = time.monotonic() + PATIENCE_S

    def shrinks() -> bool:
        """Lets the last unit end once one machine is left, or when that has taken too long."""
        if machines() <= 1 or time.monotonic() > deadline:
            shrunk.touch()
        return False

    with scaling_cluster(folder) as address:
        with Runtime([POOL], address=address) as runtime:
            seen["at first"], most = machines(), [0]
            many = [unit(f"many{number}", "behave", "sleep 2") for number in range(12)]
            runtime.run(graph, many, on_event=lambda _: most.append(machines()))
            seen["with much to do"] = max(most)
            runtime.run(graph, [unit("last", "until_there", str(shrunk))], should_stop=shrinks)
            seen["at the tail"] = machines()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        wait_for(lambda: machines() == 0)
        seen["after the run"] = machines()
        ray.shutdown()
    print(json.dumps({"machines": seen, "done": len(graph.done)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
