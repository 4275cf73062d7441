"""Equal bytes: the real command and model, undisturbed and with kills, and the difference of windows and videos.

    python -m tests.chaos.equal_bytes [--deterministic] [--rows 12] [--kills 6] [--seed 0]

The disturbed run has the rows in another order with other priorities, two GPU actors and other calls; while it runs,
actors and the command itself are killed, and the same command continues.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray

from tests.support.media_files import Media, make
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.schema import WindowRecord
from vace_batch.ledger.summary import summarise
from vace_batch.storage import files as storage
from vace_batch.video.reader import frames_from_bytes, read_frames

ROOT = Path(__file__).parents[2]
PATIENCE_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The comparison of two sets of pictures; `levels` is the largest difference of a value of 0..255."""

    compared: int
    equal: int
    levels: int
    share: float
    """Share of the values that differ."""

    def __str__(self) -> str:
        return f"{self.equal} of {self.compared} equal | {self.levels} | {self.share:.4%}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference of the window artifacts and of the finished videos of two runs, and the processes killed.

    `device_s` is the time of the undisturbed run's windows in the model.
    """

    windows: Difference
    videos: Difference
    killed: int
    device_s: float


def write_manifest(folder: Path, rows: int, shuffled: random.Random | None = None) -> str:
    """Write `rows` rows of three shapes that the model paints whole, and their video."""
    path = folder / "clip.mp4"
    if not path.exists():
        make(path, Media(width=96, height=64, num_frames=33))
    table = [_row(index) for index in range(rows)]
    if shuffled is not None:
        table = [row | {"priority": shuffled.randrange(3)} for row in shuffled.sample(table, rows)]
    target = folder / ("plain.parquet" if shuffled is None else "shuffled.parquet")
    pq.write_table(pa.Table.from_pylist(table), target)
    return str(target)


def _row(index: int) -> dict[str, Any]:
    width, frames = ((96, 17), (80, 17), (96, 33))[index % 3]
    box = {"x": 0.0, "y": 0.0, "width": float(width), "height": 64.0}
    return {
        "job_id": f"clip{index:02d}",
        "video_uri": "clip.mp4",
        "task": "inpainting",
        "prompt": f"a lake in month {index}",
        "background": "off",
        "boxes": [box],
        "sampling": {"max_frames": frames, "num_inference_steps": 6},
    }


def run_disturbed(manifest: str, out: str, words: Sequence[str], kills: int, chance: random.Random) -> int:
    """Run a manifest while processes are killed, until a run ends by itself. Returns the number of kills."""
    killed = 0
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < deadline, "waited in vain"
        with _command(manifest, out, words) as command:
            while command.poll() is None and killed < kills:
                time.sleep(chance.uniform(1, 3))
                killed += _kill_one(psutil.Process(command.pid), chance)
            code = command.wait(PATIENCE_S)
        if code == 0:
            return killed


def _kill_one(command: psutil.Process, chance: random.Random) -> int:
    """Kill a random actor, or one time in five the command; returns the number of processes killed."""
    try:
        actors = [one for one in command.children(recursive=True) if one.name().startswith("ray::Worker")]
        if not actors:
            return 0
        (command if chance.random() < 0.2 else chance.choice(actors)).kill()
    except psutil.NoSuchProcess:
        return 0
    return 1


def _command(manifest: str, out: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vace_batch", "run", manifest, "-o", out, "--quality", "off", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def window_records(out: str) -> dict[str, WindowRecord]:
    """Read the records of all windows, by key."""
    ledger = Ledger(out)
    records = {key: ledger.window(key) for key in ledger.keys("done", "window")}
    return {key: record for key, record in records.items() if record is not None}


def windows_of(out: str) -> dict[str, bytes]:
    """Read the artifacts of all windows, by key."""
    return {
        key: storage.read_bytes(storage.join(out, record["artifact"])) for key, record in window_records(out).items()
    }


def compare_windows(one: dict[str, bytes], other: dict[str, bytes]) -> Difference:
    """Compare window artifacts by key."""
    assert one.keys() == other.keys(), "the runs planned other windows"
    pairs = (
        (one[key] == other[key], _stack(frames_from_bytes(one[key])), _stack(frames_from_bytes(other[key])))
        for key in one
    )
    return _difference(pairs)


def compare_videos(one: Path, other: Path) -> Difference:
    """Compare the finished videos of two output folders by name."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())

    def pairs() -> Iterator[tuple[bool, NDArray[np.int16], NDArray[np.int16]]]:
        for name in names:
            first, second = (_stack(frame.rgb() for frame in read_frames(str(at / name))) for at in (one, other))
            yield (one / name).read_bytes() == (other / name).read_bytes(), first, second

    return _difference(pairs())


def _stack(frames: Iterator[NDArray[np.uint8]]) -> NDArray[np.int16]:
    return np.stack(list(frames)).astype(np.int16)


def _difference(pairs: Iterator[tuple[bool, NDArray[np.int16], NDArray[np.int16]]]) -> Difference:
    compared = equal = levels = differing = values = 0
    for is_equal, first, second in pairs:
        apart = np.abs(first - second)
        compared, equal, levels = compared + 1, equal + is_equal, max(levels, int(apart.max()))
        differing, values = differing + int(np.count_nonzero(apart)), values + apart.size
    return Difference(compared=compared, equal=equal, levels=levels, share=differing / values)


def measure(folder: Path, *, deterministic: bool, rows: int, kills: int, seed: int) -> Comparison:
    """Run the same rows undisturbed and disturbed, and compare them."""
    chance = random.Random(seed)
    words = ["--deterministic"] if deterministic else []
    plain, disturbed = folder / "plain", folder / "disturbed"
    run_disturbed(write_manifest(folder, rows), str(plain), [*words, "--gpu-actors", "1"], 0, chance)
    manifest = write_manifest(folder, rows, shuffled=chance)
    killed = run_disturbed(manifest, str(disturbed), [*words, "--gpu-actors", "2", "--max-batch", "3"], kills, chance)
    assert summarise(str(disturbed)).done == summarise(str(plain)).done == rows
    return Comparison(
        windows=compare_windows(windows_of(str(plain)), windows_of(str(disturbed))),
        videos=compare_videos(plain / "videos", disturbed / "videos"),
        killed=killed,
        device_s=sum(record["device_s"] for record in window_records(str(plain)).values()),
    )


def main(
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Run with --deterministic.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the manifest.")] = 12,
    kills: Annotated[int, typer.Option(min=0, help="Processes to kill.")] = 6,
    seed: Annotated[int, typer.Option(help="Seed of the kills and of the order.")] = 0,
) -> None:
    with tempfile.TemporaryDirectory(prefix="equal-bytes-", ignore_cleanup_errors=True) as folder:
        started = time.monotonic()
        comparison = measure(Path(folder), deterministic=deterministic, rows=rows, kills=kills, seed=seed)
    print("| | compared | largest difference in levels | values that differ |")
    print("|---|---|---|---|")
    print(f"| windows | {comparison.windows} |")
    print(f"| videos | {comparison.videos} |")
    print(f"{comparison.killed} processes killed, {time.monotonic() - started:.0f} s")
    print(f"{comparison.device_s:.1f} s in the model, undisturbed")


if __name__ == "__main__":
    typer.run(main)
