"""Run a deployment on nodes that share only a store, and lose one node midway; print the events.

    python -m tests.support.multi_node FOLDER [--clips 50]

A head and two workers, each by `ray start` with code, home and cache of its own; where this may make mount namespaces
a node sees neither the checkout nor the others' folders. moto is the store, a Prefect server and a worker are
processes; the deployment comes from infra/prefect/set-up and is triggered like any other. When a third of the windows
is done, a worker node is killed with all its processes, and a new one, with an empty cache, takes its place. FOLDER's
path is to be short: Ray keeps sockets in it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support import s3_server
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.summary import summarise
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_entries
from vace_batch.video.writer import write_clip

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FRAMES, PATIENCE_S = 40, 1800.0
LEVELS = 8
BOX = {"x": 20.0, "y": 16.0, "width": 24.0, "height": 20.0}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"

# What a machine of its own would not see either: the checkout, the other nodes, the sockets of their Ray. The packages
# are every machine's, also where they lie in the checkout.
_ALONE = 'mount --bind "$MINE" "$HERE" && mount --bind "$PACKAGES" "$KEPT" && mount -t tmpfs none "$NODES"'
_ALONE += ' && mount -t tmpfs none "$CHECKOUT" && mkdir -p "$PACKAGES" && mount --bind "$KEPT" "$PACKAGES"'
_ALONE += ' && mount -t tmpfs none "$RAY_FILES" && cd "$HERE" && exec "$@"'


def can_hide() -> bool:
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


class Machines:
    """The Ray nodes. All have the address 127.0.0.1, as one machine has no more."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.alone = folder, can_hide()
        self.port, self.metrics_port, self.client_port, *self.agent_ports = s3_server.free_ports(8)
        self.environment = environment
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("here", "nodes", "ray", "kept"):
            (folder / name).mkdir()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def head(self) -> None:
        flags = ["--head", f"--port={self.port}", "--num-cpus=0", f"--temp-dir={self.folder / 'ray'}"]
        flags += [f"--metrics-export-port={self.metrics_port}", "--include-dashboard=false"]
        flags += [f"--ray-client-server-port={self.client_port}"]
        self._start("head", flags, self.environment, ())

    def add(self, name: str, num_cpus: int = 2) -> None:
        """Add a worker with its own copy of the code and an empty cache."""
        mine = self.folder / "nodes" / name
        for part in ("home", "cache"):
            (mine / part).mkdir(parents=True)
        shutil.copytree(ROOT / "vace_batch", mine / "code" / "vace_batch", ignore=shutil.ignore_patterns("__pycache__"))
        here = self.folder / "here" if self.alone else mine
        environment = self.environment | {
            "PYTHONPATH": str(here / "code"),
            "HOME": str(here / "home"),
            "VACE_BATCH_CACHE": str(here / "cache"),
            "MINE": str(mine),
            "HERE": str(here),
            "NODES": str(self.folder / "nodes"),
            "CHECKOUT": str(ROOT),
            "RAY_FILES": str(self.folder / "ray"),
            "PACKAGES": sys.prefix,
            "KEPT": str(self.folder / "kept"),
        }
        wrapped = ("unshare", "--mount", "sh", "-c", _ALONE, "sh") if self.alone else ()
        self._start(name, [f"--address={self.address}", f"--num-cpus={num_cpus}"], environment, wrapped)

    def _start(self, name: str, flags: list[str], environment: dict[str, str], wrapped: tuple[str, ...]) -> None:
        common = ["--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", "--object-store-memory=150000000"]
        common += ["--min-worker-port=0", "--max-worker-port=0"]
        common += [f"--dashboard-agent-listen-port={self.agent_ports.pop()}"]
        command = [*wrapped, str(BIN / "ray"), "start", *common, *flags]
        with open(self.folder / f"{name}.log", "wb") as sink:
            self.nodes[name] = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, cwd=self.folder)

    def kill(self, name: str) -> None:
        """Kill every process of a node at once, as a power failure does."""
        main = psutil.Process(self.nodes.pop(name).pid)
        for process in [*main.children(recursive=True), main]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        main.wait()

    def check(self) -> None:
        """Check that all nodes except killed ones are alive; the rest of a run would only wait for a missing node."""
        for name, node in self.nodes.items():
            assert node.poll() is None, f"node {name} is gone: {(self.folder / f'{name}.log').read_text()[-2000:]}"

    def close(self) -> None:
        for name in list(self.nodes):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.kill(name)


def main(folder: Path, num_clips: int) -> dict[str, Any]:
    """Run the deployment and lose a node.

    Returns: what happened, in numbers.

    Raises:
        AssertionError: a clip is missing, a window was recorded twice, or an output differs from one machine's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = make_clips(folder, num_clips)
    with s3_server.moto(folder) as endpoint, s3_server.bucket(endpoint) as bucket:
        upload(sources, bucket)
        with cluster(folder) as machines:
            environment = machines.environment | {"PREFECT_HOME": str(folder / "prefect")}
            with prefect(folder, environment | {"RAY_ADDRESS": machines.address}) as api:
                report = triggered(folder, bucket, machines, environment | {"PREFECT_API_URL": api}, num_clips)
        return report | counted(bucket, num_clips) | compared(folder, bucket, num_clips)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Machines]:
    """A head and two workers, with a token; `environment` of it is for a driver, with `address` as RAY_ADDRESS."""
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "only-for-this-test-and-for-no-one-else",
        "RAY_worker_niceness": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "VACE_BATCH_CACHE": str(folder / "driver-cache"),
    }
    environment.pop("RAY_ADDRESS", None)
    machines = Machines(folder, environment)
    try:
        machines.head()
        wait_for(lambda: b"Ray runtime started" in (folder / "head.log").read_bytes(), "the head")
        for name in ("first", "second"):
            machines.add(name)
        yield machines
    finally:
        machines.close()


def make_clips(folder: Path, count: int) -> Path:
    sources = folder / "in"
    sources.mkdir()
    rows = []
    for number in range(count):
        y, x = np.mgrid[0:64, 0:96]
        frames = (np.stack([x * 2 + 3 * number, y * 3, np.full_like(x, 60 + n)], -1) for n in range(FRAMES))
        write_clip(sources / f"c{number}.mp4", (frame.astype(np.uint8) for frame in frames), rate=Fraction(25))
        row = {"job_id": f"c{number}", "video_uri": f"c{number}.mp4", "task": "removal", "boxes": [BOX]}
        rows.append(row | {"background": "off"})
    pq.write_table(pa.Table.from_pylist(rows), sources / "manifest.parquet")
    return sources


def upload(sources: Path, bucket: str) -> None:
    for path in sources.iterdir():
        storage.publish(f"{bucket}/in/{path.name}", path.read_bytes())
    tiny = ROOT / "vace_batch" / "vace" / "tiny"
    for path in tiny.rglob("*"):
        if path.suffix in (".json", ".safetensors", ".model", ".txt"):
            storage.publish(f"{bucket}/weights/{path.relative_to(tiny)}", path.read_bytes())


@contextlib.contextmanager
def prefect(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A server with a database of its own, all of infra/prefect on it, and a worker; yields the API's address."""
    (port,) = s3_server.free_ports(1)
    api = f"http://127.0.0.1:{port}/api"
    environment = environment | {"PREFECT_API_URL": api}
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with s3_server.running(command, folder / "server.log", port, PATIENCE_S, environment):
        subprocess.run([ROOT / "infra/prefect/set-up"], env=environment, check=True, stdout=subprocess.DEVNULL)
        command = [str(BIN / "prefect"), "worker", "start", "--pool", "vace-batch", "--type", "process"]
        with open(folder / "worker.log", "wb") as sink:
            worker = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink, cwd=ROOT)
        try:
            yield api
        finally:
            for process in [*psutil.Process(worker.pid).children(recursive=True), worker]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            worker.wait()


def triggered(
    folder: Path, bucket: str, machines: Machines, environment: dict[str, str], num_clips: int
) -> dict[str, Any]:
    out = f"{bucket}/out"
    parameters = {"manifest": f"{bucket}/in/manifest.parquet", "output": out, "model": f"{bucket}/weights"}
    words = [f"--param={name}={value}" for name, value in parameters.items()]
    words += ["--param=cpu_actors=2", "--param=gpu_actors=2"]
    command = [str(BIN / "prefect"), "deployment", "run", "vace-batch/archive", *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    started, ledger = time.monotonic(), Ledger(out)
    wait_for(lambda: machines.check() or ledger.keys("done", "window"), "the first window")
    first_s = time.monotonic() - started
    wait_for(lambda: len(ledger.keys("done", "window")) >= num_clips * 2 // 3, "a third of the windows")
    at = len(ledger.keys("done", "clip")), len(ledger.keys("done", "window"))
    machines.kill("first")
    machines.add("third")
    counted: Counter[str] = Counter()

    def over() -> bool:
        machines.check()
        counted.update({name: int(value) - counted[name] for name, value in attempts(machines.metrics_port).items()})
        return state(environment["PREFECT_API_URL"]) in ("COMPLETED", "FAILED", "CRASHED")

    wait_for(over, "the flow's end", every_s=1.0)
    assert state(environment["PREFECT_API_URL"]) == "COMPLETED", (folder / "worker.log").read_text()[-4000:]
    return {
        "nodes see only their own disk": machines.alone,
        "first window after s": round(first_s, 1),
        "seconds": round(time.monotonic() - started, 1),
        "clips, windows when the node was killed": at,
        "steps started, by kind": dict(counted),
        "weights fetched (bytes a GET)": s3_server.moto_gets(folder, WEIGHTS),
    }


def attempts(port: int) -> dict[str, float]:
    """Read the number of started steps, by kind, from the run's metrics at Ray's endpoint."""
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    except OSError:
        return {}
    lines = (line for line in text.splitlines() if line.startswith("ray_vace_batch_attempts_total{"))
    return {line.split('kind="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def state(api: str) -> str:
    """Return the state of the triggered run."""
    runs = ask(api, "flow_runs/filter", {"limit": 1, "sort": "START_TIME_DESC", **_named("archive")})
    return str(runs[0]["state_type"]) if runs else "NONE"


def _named(deployment: str) -> dict[str, Any]:
    return {"deployments": {"name": {"any_": [deployment]}}}


def ask(api: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())


def counted(bucket: str, num_clips: int) -> dict[str, Any]:
    """Count the ledger's records at the end: every clip and every window once."""
    summary = summarise(f"{bucket}/out")
    assert (summary.planned, summary.done, summary.pending) == (num_clips, num_clips, 0), summary.counters
    windows = Ledger(f"{bucket}/out").keys("done", "window")
    listed = [name.split("/") for name in (entry.name for entry in list_entries(f"{bucket}/out/artifacts"))]
    made = Counter(parts[-2] for parts in listed if parts[-2].startswith("window-"))
    assert set(made) == set(windows) and set(made.values()) == {1}, "a window was lost, or left twice"
    return {"counters": summary.counters, "windows": len(windows)}


def compared(folder: Path, bucket: str, num_clips: int) -> dict[str, Any]:
    """Compare with a run of the same manifest on one machine, without Prefect and without a lost node."""
    command = [
        sys.executable,
        "-m",
        "vace_batch",
        "run",
        f"{bucket}/in/manifest.parquet",
        "--model",
        f"{bucket}/weights",
    ]
    command += ["-o", str(folder / "alone"), "--cpu-actors", "1", "--gpu-actors", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, check=True, capture_output=True)
    same, most = 0, 0
    for number in range(num_clips):
        name = f"videos/c{number}.mp4"
        theirs, mine = storage.read_bytes(f"{bucket}/out/{name}"), (folder / "alone" / name).read_bytes()
        same += theirs == mine
        most = max(most, 0 if theirs == mine else furthest(theirs, mine))
    assert most <= LEVELS, f"a pixel is {most} levels from one machine's"
    return {"outputs with one machine's bytes": same, "levels of 255 between the others, at most": most}


def furthest(first: bytes, second: bytes) -> int:
    """Return the largest difference of two videos in levels: windows in different batches differ by rounding."""
    pair = [
        np.stack([frame.to_ndarray(format="yuv420p") for frame in av.open(io.BytesIO(data)).decode(video=0)])
        for data in (first, second)
    ]
    assert pair[0].shape == pair[1].shape
    return int(np.abs(pair[0].astype(int) - pair[1]).max())


def wait_for(there: Any, what: str, every_s: float = 0.5) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(every_s)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=50)
    given = parser.parse_args()
    print(json.dumps(main(given.folder.absolute(), given.clips), indent=1))
