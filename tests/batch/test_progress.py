"""Views of a run's progress."""

from __future__ import annotations

import io

from rich.console import Console

from vace_batch.batch.monitor import RunView
from vace_batch.batch.progress import LiveView, PlainView, Progress


def test_both_views_show_the_note() -> None:
    progress = RunView(planned=3, done=1, failed=0, windows=2, heartbeat=None).as_progress()
    for kind in (PlainView, LiveView):
        said = io.StringIO()
        with kind(Console(file=said, force_terminal=kind is LiveView, width=200)) as show:
            show(Progress(**{**{f: getattr(progress, f) for f in progress.__slots__}, "note": "on h"}))
        assert "1/3" in said.getvalue() and "on h" in said.getvalue()
