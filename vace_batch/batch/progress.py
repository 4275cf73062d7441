"""The progress of a run: its counters, and views of them as a live table or as plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The counters of a run at one moment.

    `gpu_busy` is the share of the GPU actors' time that went into steps, from 0 to 1. `clips_before` counts the clips
    that had finished before the run began. `firsts` names the first events so far (model, masks, window); `note` is
    shown unchanged.
    """

    clips: int
    clips_done: int
    clips_failed: int
    clips_skipped: int
    windows: int
    windows_done: int
    frames_done: int
    gpu_busy: float
    elapsed_s: float
    clips_before: int = 0
    firsts: tuple[str, ...] = ()
    note: str = ""

    @property
    def clips_finished(self) -> int:
        return self.clips_done + self.clips_failed + self.clips_skipped

    @property
    def frames_per_s(self) -> float:
        return self.frames_done / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left, if the remaining clips take as long as the finished ones; None before the first clip has
        finished."""
        finished = self.clips_finished - self.clips_before
        return self.elapsed_s / finished * (self.clips - self.clips_finished) if finished > 0 else None

    def __str__(self) -> str:
        eta = "?" if self.eta_s is None else duration(self.eta_s)
        return (
            f"clips {self.clips_finished}/{self.clips} (failed {self.clips_failed}, skipped {self.clips_skipped})"
            f"  windows {self.windows_done}/{self.windows}  {self.frames_per_s:.1f} frames/s"
            f"  GPU busy {self.gpu_busy:.0%}  elapsed {duration(self.elapsed_s)}  left {eta}"
            + (f"  {self.note}" if self.note else "")
        )


def duration(seconds: float) -> str:
    """Format seconds as `h:mm:ss`, or `m:ss` below an hour."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    text = f"{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
    return f"{hours}:{text}" if hours else text


Show = Callable[[Progress], None]


class PlainView:
    """Prints a line whenever a clip finishes, and at least every `every_s` seconds."""

    def __init__(self, console: Console, every_s: float = 10) -> None:
        self._console = console
        self._every_s = every_s
        self._shown_at = 0.0
        self._finished = -1

    def __enter__(self) -> Show:
        return self._show

    def __exit__(self, *_: object) -> None:
        pass

    def _show(self, progress: Progress) -> None:
        if progress.clips_finished == self._finished and time.monotonic() - self._shown_at < self._every_s:
            return
        self._finished = progress.clips_finished
        self._shown_at = time.monotonic()
        self._console.print(str(progress), markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """Redraws a small table in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Show:
        self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _show(self, progress: Progress) -> None:
        table = Table.grid(padding=(0, 2))
        eta = "?" if progress.eta_s is None else duration(progress.eta_s)
        failed = f"failed {progress.clips_failed}, skipped {progress.clips_skipped}"
        table.add_row("clips", f"{progress.clips_finished}/{progress.clips}", failed)
        table.add_row("windows", f"{progress.windows_done}/{progress.windows}", f"{progress.frames_per_s:.1f} frames/s")
        table.add_row("GPU busy", f"{progress.gpu_busy:.0%}", f"elapsed {duration(progress.elapsed_s)}, left {eta}")
        self._live.update(Group(table, progress.note) if progress.note else table)


class NoView:
    """Shows nothing."""

    def __enter__(self) -> Show:
        return lambda progress: None

    def __exit__(self, *_: object) -> None:
        pass


def view(console: Console, *, quiet: bool) -> PlainView | LiveView | NoView:
    """Choose the view: nothing when quiet, the live table in a terminal, plain lines elsewhere."""
    if quiet:
        return NoView()
    return LiveView(console) if console.is_terminal else PlainView(console)
