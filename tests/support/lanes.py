"""How pytest's workers share the tests: by lanes, each of which one worker runs from its begin to its end.

A lane is a file, so that the fixtures of a module are made once, or all files of a folder that start Ray or Prefect:
two tests of one lane never run at the same time.
"""

from __future__ import annotations

from typing import Any

FOLDERS = {"tests/integration/": "Ray", "tests/chaos/": "Ray", "tests/flows/": "Prefect"}
"""The lane of each folder whose files share one."""

LONGEST_FIRST = ("Ray", "Prefect", "tests/docs/test_commands.py", "tests/background/")


def lane(nodeid: str) -> str:
    """Return the lane of a test."""
    shared = (name for folder, name in FOLDERS.items() if nodeid.startswith(folder))
    return next(shared, nodeid.partition("::")[0])


def rank(nodeid: str) -> int:
    """Return the place of a test's lane in the order of the lanes."""
    name = lane(nodeid)
    return next((at for at, begin in enumerate(LONGEST_FIRST) if name.startswith(begin)), len(LONGEST_FIRST))


def scheduler(config: Any, log: Any) -> Any:
    """Return the scheduler that hands out whole lanes in the order of the tests."""
    from xdist.scheduler import LoadScopeScheduling  # here because one process alone needs no xdist

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return lane(nodeid)

    config.option.loadscopereorder = False  # the lane with the most tests is not the longest
    return Lanes(config, log)
