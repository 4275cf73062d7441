"""Faults and their cost: each fault on a real Ray with real processes, a real ledger and real files.

    python -m tests.chaos.campaign [--runs 20] [--repeat 1] [--only NAME] [--windows 200]

Every fault ends with the same checks: the counters add up, no window is lost or recorded twice, the outputs are the
bytes of an undisturbed run, and no more windows were run again than ran when something died.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.chaos import prefect_server, steps
from tests.chaos.driver import Trial
from tests.chaos.faulty_storage import SCHEME
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.summary import summarise

ROOT = Path(__file__).parents[2]
PATIENCE_S = 900.0


class Driver:
    """A driver's process and its events, in order of arrival."""

    def __init__(self, trial: Trial, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.chaos.driver", json.dumps(asdict(trial))]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.events.append(json.loads(line))

    def told(self, what: str, **more: object) -> list[dict[str, Any]]:
        events = [event for event in self.events if event["what"] == what]
        return [event for event in events if all(event[name] == value for name, value in more.items())]

    def windows_done(self) -> int:
        return sum(event["kind"] == "generate" for event in self.told("done"))

    def wait_until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert self.process.poll() is None, f"the driver has ended with {self.process.returncode}"
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    def end(self) -> int:
        """Wait until the driver has ended by itself; return its exit code."""
        try:
            code = self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
        self._reader.join(10)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(10)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `running` bounds the number of windows that were running in killed processes."""

    fault: str
    runs: int
    windows: int
    lost: int
    duplicated: int
    rerun: int
    running: int
    recover_s: float


@dataclass
class Stage:
    """One disturbed run: its folder, its drivers, the time of the fault, and the windows that cannot be done."""

    folder: Path
    trial: Trial
    environment: dict[str, str] = field(default_factory=dict)
    hopeless: dict[int, str] = field(default_factory=dict)
    fault_at: float = 0.0
    running: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(0))
    drivers: list[Driver] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "runs").mkdir(parents=True, exist_ok=True)

    @property
    def out(self) -> Path:
        return Path(self.trial.out.removeprefix(f"{SCHEME}://"))

    def start(self, **more: str) -> Driver:
        temporary = {"TMPDIR": str(self.folder), "RAY_TMPDIR": tempfile.gettempdir(), "RAY_worker_niceness": "0"}
        mine = {steps.RUNS: str(self.folder / "runs"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.drivers.append(Driver(self.trial, inherited | temporary | mine | self.environment | more))
        return self.drivers[-1]

    def fault(self, windows: int = 0) -> None:
        """Note that a fault begins now that may cost the running of `windows` windows."""
        self.fault_at = time.monotonic()
        self.running += windows

    def kill(self, pid: int, windows: int) -> None:
        """SIGKILL a process that may be running `windows` windows."""
        self.fault(windows)
        os.kill(pid, signal.SIGKILL)

    def lines(self) -> list[tuple[str, str, int, float]]:
        """Return (process, event, window, time) of each line that the runs of windows have written, sorted by time."""
        found = []
        for path in (self.folder / "runs").iterdir():
            for line in path.read_text().splitlines():
                what, number, at = line.split()
                found.append((path.name, what, int(number), float(at)))
        return sorted(found, key=lambda line: line[3])


def check(stage: Stage, name: str) -> Row:
    """Check that no window was lost, done twice or changed, and count the cost.

    Raises:
        AssertionError: a window was lost, done twice or changed.
    """
    trial = replace(stage.trial, out=str(stage.out))
    lines = stage.lines()
    summary = summarise(trial.out)
    bad_clips = {window // trial.clip_windows: code for window, code in stage.hopeless.items()}
    counts = (trial.clips, summary.planned, summary.done + summary.failed)
    assert len(set(counts)) == 1, (counts, [driver.told("error") for driver in stage.drivers])
    failed = {job["job_id"]: job["error_code"] for job in summary.jobs if job["status"] == "failed"}
    assert failed == {f"clip{clip}": code for clip, code in bad_clips.items()}, failed
    won = Counter(window for _, what, window, _ in lines if what == "won")
    # A driver that comes after a clip has failed does not make the rest of its windows.
    should = {window for window in range(trial.windows) if window // trial.clip_windows not in bad_clips}
    keys = Ledger(trial.out).keys("done", "window")
    recorded = {window for window in range(trial.windows) if steps.window_key(window) in keys}
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (stage.out / "videos").iterdir()}
    clean = clean_outputs(replace(trial, out="", words={}, nodes=0, clock_jumps=False))
    whole = {_name(clip) for clip in range(trial.clips) if clip not in bad_clips}
    assert set(digests) == whole, f"outputs that are not there: {whole - set(digests)}"
    assert digests == {path: clean[path] for path in whole}, "outputs are not those of an undisturbed run"
    row = Row(
        fault=name,
        runs=1,
        windows=trial.windows,
        lost=len(should - recorded),  # a process may be killed between its record and its line
        duplicated=sum(count > 1 for count in won.values()),
        rerun=_reruns(lines, stage.hopeless),
        running=stage.running,
        recover_s=_recovery(lines, stage),
    )
    assert (row.lost, row.duplicated) == (0, 0), row
    assert row.rerun <= row.running, row
    return row


def _name(clip: int) -> str:
    return steps.output(clip).rsplit("/", 1)[-1]


def _reruns(lines: list[tuple[str, str, int, float]], hopeless: dict[int, str]) -> int:
    starts = Counter(window for _, what, window, _ in lines if what == "start" and window not in hopeless)
    return sum(count - 1 for count in starts.values())


def _unended(lines: list[tuple[str, str, int, float]], hopeless: dict[int, str]) -> list[tuple[int, float]]:
    """Return windows and times of the runs that ended without a record: killed, failed, or overtaken by another run."""
    open_runs: dict[tuple[str, int], float] = {}
    lost: list[tuple[int, float]] = []
    for process, what, window, at in lines:
        if window in hopeless:
            continue
        if what == "start":
            if (process, window) in open_runs:
                lost.append((window, open_runs[process, window]))
            open_runs[process, window] = at
        elif what == "won":
            open_runs.pop((process, window), None)
    return lost + [(window, at) for (_, window), at in open_runs.items()]


def _recovery(lines: list[tuple[str, str, int, float]], stage: Stage) -> float:
    """Return the seconds from the last fault until an actor replaced the lost one and each lost window was done."""
    fault = stage.fault_at
    lost = {window for window, at in _unended(lines, stage.hopeless) if at <= fault}
    ready = [event["at"] for driver in stage.drivers for event in driver.told("ready") if event["at"] > fault]
    ends = [at for _, what, window, at in lines if what == "won" and window in lost and at > fault]
    return max([fault, *sorted(ready)[:1], *ends]) - fault if fault else 0.0


_clean: dict[tuple[int, int], dict[str, str]] = {}


def clean_outputs(trial: Trial) -> dict[str, str]:
    """Return the digests of the videos of an undisturbed run with the same number of windows; run once."""
    size = trial.windows, trial.clip_windows
    if size not in _clean:
        with tempfile.TemporaryDirectory(prefix="chaos-clean-", ignore_cleanup_errors=True) as folder:
            plain = Trial(out=str(Path(folder) / "out"), windows=size[0], clip_windows=size[1], seconds=0.0)
            stage = Stage(Path(folder), plain)
            driver = stage.start()
            assert driver.end() == 0, driver.events[-1:]
            _clean[size] = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (stage.out / "videos").iterdir()
            }
    return _clean[size]


# --- the faults ------------------------------------------------------------------------------------------------------


def kill_actor(stage: Stage, pool: str) -> None:
    stage.trial = replace(stage.trial, seconds=0.2)
    driver = stage.start()
    driver.wait_until(lambda: driver.windows_done() >= 5)
    stage.kill(driver.told("ready", pool=pool)[0]["pid"], windows=int(pool == "gpu"))
    assert driver.end() == 0
    assert len(driver.told("died", pool=pool)) == 1


def kill_raylet(stage: Stage) -> None:
    stage.trial = replace(stage.trial, nodes=2, seconds=0.2)
    driver = stage.start()
    driver.wait_until(lambda: driver.windows_done() >= 5)
    stage.kill(driver.told("node")[0]["pid"], windows=stage.trial.gpu_actors)
    assert driver.end() == 0


def spot_notice(stage: Stage) -> None:
    """A machine with notice finishes its running windows; other machines run its next windows."""
    stage.trial = replace(stage.trial, nodes=2, seconds=0.5)
    driver = stage.start()
    driver.wait_until(lambda: driver.windows_done() >= 5)
    stage.fault()
    driver.process.send_signal(signal.SIGUSR1)
    driver.wait_until(lambda: bool(driver.told("died", cause="drain")))
    time.sleep(3)
    stage.kill(driver.told("node")[0]["pid"], windows=stage.trial.gpu_actors)
    assert driver.end() == 0
    assert driver.told("noticed")[0]["accepted"]


def kill_driver(stage: Stage) -> None:
    stage.trial = replace(stage.trial, seconds=0.2)
    driver = stage.start()
    driver.wait_until(lambda: driver.windows_done() >= 5)
    stage.fault(stage.trial.gpu_actors)
    driver.kill()
    assert stage.start().end() == 0


def poison(stage: Stage) -> None:
    stage.trial = replace(stage.trial, words={"7": "poison"})
    stage.hopeless = {7: "worker_died"}
    assert stage.start().end() == 1


def hang(stage: Stage) -> None:
    words = {"7": "hang", "11": "hang once"}
    stage.trial = replace(stage.trial, words=words, time_limit_s=3.0)
    stage.hopeless = {7: "timeout"}
    stage.running = 1  # the one that hangs once; the other is hopeless
    assert stage.start().end() == 1


def host_memory(stage: Stage) -> None:
    """Ray's monitor kills processes that take more than 3 GiB on top of the machine's present use."""
    memory = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    share = 1 - (memory["MemAvailable"] - (3 << 20)) / memory["MemTotal"]
    stage.environment |= {"RAY_memory_usage_threshold": f"{share:.4f}", "RAY_memory_monitor_refresh_ms": "50"}
    stage.trial = replace(stage.trial, words={"7": "host memory"})
    stage.hopeless = {7: "out_of_memory"}
    assert stage.start().end() == 1


def device_memory(stage: Stage) -> None:
    words = {str(window): "device memory" for window in range(stage.trial.windows)}
    stage.trial = replace(stage.trial, words=words, max_batch=4)
    stage.running = 2 * stage.trial.windows  # in a batch of four, then in one of two
    assert stage.start().end() == 0


def disk_full(stage: Stage) -> None:
    """OUT is a file system of its own that takes half of the windows; then it grows, and the run continues."""
    size = stage.trial.windows * 4 * steps.SIDE * steps.SIDE * 3
    with _file_system(stage.out, size // 2) as grow:
        driver = stage.start()
        assert driver.end() == 1
        (error,) = driver.told("error")
        assert "No space left on device" in error["reason"], error
        stage.fault(stage.trial.gpu_actors)  # what had been made and found no room
        grow(size * 4)
        assert stage.start().end() == 0
        shown = check(stage, "inside")  # the files go with the file system
        stage.folder.joinpath("shown.json").write_text(json.dumps(asdict(shown)))


@contextmanager
def _file_system(at: Path, num_bytes: int) -> Iterator[Callable[[int], None]]:
    at.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, f"size={num_bytes}", "chaos", str(at)], check=True)
    try:
        yield lambda size: subprocess.run([*mount[:-1], "-o", f"remount,size={size}", str(at)], check=True) and None
    finally:
        subprocess.run(["umount", str(at)], check=True)


def may_mount() -> bool:
    """Return whether this process may mount a file system of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(["mount", "-t", "tmpfs", "chaos", folder], capture_output=True, check=False)
        if made.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return made.returncode == 0


def spill_full(stage: Stage) -> None:
    """Payloads of twice the object store wait for one GPU actor, and Ray may not spill: the disk is full to it."""
    words = {str(window): "large" for window in range(stage.trial.windows)}
    stage.environment |= {"RAY_local_fs_capacity_threshold": "0.0001"}
    stage.trial = replace(stage.trial, words=words, gpu_actors=1, payload_mb=200, object_store_mb=100, seconds=0.1)
    assert stage.start().end() == 0


def bad_storage(stage: Stage, **faults: str) -> None:
    stage.trial = replace(stage.trial, out=f"{SCHEME}://{stage.trial.out}")
    assert stage.start(**faults).end() == 0


def clock_jumps(stage: Stage) -> None:
    stage.trial = replace(stage.trial, clock_jumps=True)
    assert stage.start().end() == 0


def terminate(stage: Stage) -> None:
    stage.trial = replace(stage.trial, seconds=1.0, windows=20)
    driver = stage.start()
    driver.wait_until(lambda: driver.windows_done() >= 3)
    stage.fault(stage.trial.gpu_actors)  # what stood behind a running window begins before its actor is stopped
    driver.process.terminate()
    assert driver.end() == 130
    assert time.monotonic() - stage.fault_at < 30
    assert 0 < driver.told("end")[0]["counts"]["pending"]
    assert stage.start().end() == 0


def two_drivers(stage: Stage) -> None:
    stage.running = stage.trial.windows  # each may run in both at the same time
    drivers = [stage.start(), stage.start()]
    assert [driver.end() for driver in drivers] == [0, 0]


def kill_prefect_server(stage: Stage) -> None:
    row = Row(fault="", runs=1, running=0, **prefect_server.kill_the_server(stage.folder))
    stage.folder.joinpath("shown.json").write_text(json.dumps(asdict(row)))


def random_kills(stage: Stage) -> None:
    """An actor or the driver is killed three to six times; one window kills its process in every run."""
    bad = stage.random.randrange(stage.trial.windows)
    stage.trial = replace(stage.trial, words={str(bad): "poison"})
    stage.hopeless = {bad: "worker_died"}
    driver = stage.start()
    killed: set[int] = set()
    for _ in range(stage.random.randint(3, 6)):
        target = driver.windows_done() + stage.random.randint(1, stage.trial.windows // 6)
        while driver.process.poll() is None and driver.windows_done() < target:
            time.sleep(0.01)
        if driver.process.poll() is not None:
            break
        alive = _children(driver.process.pid) & {event["pid"] for event in driver.told("ready")} - killed
        if stage.random.random() < 0.2 or not alive:
            stage.fault(stage.trial.gpu_actors)
            driver.kill()
            driver = stage.start()
        else:
            victim = stage.random.choice(sorted(alive))
            killed.add(victim)
            stage.kill(victim, windows=1)
    assert driver.end() == 1
    while error := driver.told("error"):  # a machine too busy to start actors in time: the same command continues
        print(error[0]["reason"], file=sys.stderr, flush=True)
        driver = stage.start()
        assert driver.end() == 1


def _children(pid: int) -> set[int]:
    """List all descendants of this process, so that no other program's process with a reused id is killed."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found: set[int] = set()
    new = {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


FAULTS: dict[str, Callable[[Stage], None]] = {
    "kill -9 of a CPU actor": lambda stage: kill_actor(stage, "cpu"),
    "kill -9 of a GPU actor": lambda stage: kill_actor(stage, "gpu"),
    "kill -9 of a raylet (one node of two)": kill_raylet,
    "spot notice, then kill -9 of that raylet": spot_notice,
    "kill -9 of the driver": kill_driver,
    "a window that kills its process": poison,
    "a window that hangs, one that hangs once": hang,
    "host out of memory by one window": host_memory,
    "device out of memory above batch 1 (simulated)": device_memory,
    "disk full on OUT": disk_full,
    "object store full, spilling refused": spill_full,
    "storage fails 10% of its calls": lambda stage: bad_storage(stage, FAULTY_FAIL="0.1"),
    "storage takes 50 ms a call": lambda stage: bad_storage(stage, FAULTY_SLOW_S="0.05"),
    "storage truncates 10% of what is read": lambda stage: bad_storage(stage, FAULTY_TRUNCATE="0.1"),
    "wall clock jumps by days": clock_jumps,
    "SIGTERM": terminate,
    "two drivers at once": two_drivers,
    "kill -9 of the Prefect server (real pipeline)": kill_prefect_server,
}
RANDOM = "random kills of actors and drivers, one poison window"


def one(name: str, act: Callable[[Stage], None], *, windows: int, seed: int = 0) -> Row:
    """Run and check one disturbed run."""
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        trial = Trial(out=str(Path(folder) / "out"), windows=windows)
        stage = Stage(Path(folder), trial, random=random.Random(seed))
        act(stage)
        shown = Path(folder) / "shown.json"
        row = replace(Row(**json.loads(shown.read_text())), fault=name) if shown.exists() else check(stage, name)
        print(row, file=sys.stderr, flush=True)
        return row


def together(rows: list[Row]) -> Row:
    """Join the runs of one fault into one line: sums, and the slowest recovery."""
    sums = {
        name: sum(getattr(row, name) for row in rows)
        for name in ("runs", "windows", "lost", "duplicated", "rerun", "running")
    }
    return Row(fault=rows[0].fault, recover_s=max(row.recover_s for row in rows), **sums)


def main(
    runs: Annotated[int, typer.Option(help="runs of the random kills")] = 20,
    windows: Annotated[int, typer.Option(help="windows of each of them")] = 200,
    repeat: Annotated[int, typer.Option(help="runs of each other fault")] = 1,
    small: Annotated[int, typer.Option(help="windows of each of them")] = 40,
    first_seed: Annotated[int, typer.Option(help="of the random kills")] = 0,
    only: Annotated[str, typer.Option(help="faults whose name has this in it")] = "",
) -> None:
    """Run the faults and print the table."""
    print("| fault | runs | windows | lost | recorded twice | run again | ran when it happened | recovered after |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failed: list[str] = []
    plans: list[tuple[str, Callable[[Stage], None], int, int]] = [
        (name, act, repeat, small) for name, act in FAULTS.items()
    ]
    for name, act, times, count in [*plans, (RANDOM, random_kills, runs, windows)]:
        if only not in name or not times:
            continue
        if act is disk_full and not may_mount():
            print(f"| {name} | not run: this process may not mount a file system |")
            continue
        try:
            seeds = range(first_seed, first_seed + times)
            row = together([one(name, act, windows=count, seed=seed) for seed in seeds])
        except AssertionError as error:
            failed.append(name)
            print(f"| {name} | FAILED: {' '.join(str(error).split())[:200]} |", flush=True)
            continue
        cells = (row.runs, row.windows, row.lost, row.duplicated, row.rerun, row.running)
        print(f"| {row.fault} | {' | '.join(map(str, cells))} | {row.recover_s:.1f} s |", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    typer.run(main)
