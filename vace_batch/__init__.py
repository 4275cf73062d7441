"""Remove and restyle objects in whole video archives, unattended, on a Ray cluster.

The way of the data: manifest, video, masks, planning, background, vcu, vace, stitch, quality, ledger. `steps` takes one
clip along this way, `batch` a whole manifest, `cluster` puts steps on machines. `report` shows results, `cli` is the
command line.

    from vace_batch import Options, plan, read_manifest, run

    manifest = read_manifest("manifest.parquet")
    print(plan(manifest, Options(crf=18)))
    print(run(manifest, "out", Options(crf=18)))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vace_batch import log

if TYPE_CHECKING:
    from vace_batch.batch.driver import run
    from vace_batch.batch.dry_run import plan
    from vace_batch.manifest.reader import read_manifest
    from vace_batch.options import Options

__version__ = "0.1.0"
__all__ = ["Options", "plan", "read_manifest", "run"]

_HOMES = {
    "Options": "vace_batch.options",
    "plan": "vace_batch.batch.dry_run",
    "read_manifest": "vace_batch.manifest.reader",
    "run": "vace_batch.batch.driver",
}
"""Module of each public name. Imported at first use: `plan` and `run` load OpenCV, PyAV and Ray."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    log.quiet_environment()  # before the first import of Ray or a model library, which read these variables once
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
