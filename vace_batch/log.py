"""Log to stderr: a JSON line per record with run, clip and window, or plain text at a terminal.

Call `quiet_environment()` before the first import of Ray, Prefect or a model library: most read their environment once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from vace_batch.redact import redact

LEVEL_VARIABLE = "VACE_BATCH_LOG_LEVEL"
FORMAT_VARIABLE = "VACE_BATCH_LOG_FORMAT"
EVENTS_VARIABLE = "VACE_BATCH_EVENTS"
EVENTS = "vace_batch.events"
"""The logger of a run's events: every step of every clip."""

_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "YOLO_OFFLINE": "true",  # no events and no look-ups at import; weights given by a release name are still fetched
    "YOLO_AUTOINSTALL": "false",
}
_NO_NOISE = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # its deduplicator writes to standard output
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "YOLO_VERBOSE": "false",
}
_TALKATIVE = (
    "PIL",
    "accelerate",
    "botocore",
    "diffusers",
    "fsspec",
    "httpcore",
    "httpx",
    "huggingface_hub",
    "libav",
    "matplotlib",
    "numba",
    "pyscenedetect",
    "ray",
    "s3fs",
    "torch",
    "transformers",
    "ultralytics",
    "urllib3",
)
# A warning may be attributed to its caller, which is this package.
_OF_THIRD_PARTIES = rf"({'|'.join((*_TALKATIVE, 'vace_batch'))})(\.|$)"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_bound: ContextVar[dict[str, str] | None] = ContextVar("vace_batch_log_fields", default=None)


def quiet_environment(environ: MutableMapping[str, str] = os.environ, prefix: str = "") -> None:
    """Switch telemetry and third-party chatter off in `environ`, by the variables that begin with `prefix`.

    Variables that the user has set are left alone.
    """
    for name, value in (_NO_TELEMETRY | _NO_NOISE).items():
        if name.startswith(prefix):
            environ.setdefault(name, value)


def get_logger(name: str) -> logging.Logger:
    """Return the logger of module `name`, a child of the logger `vace_batch`."""
    return logging.getLogger(name if name.split(".")[0] == "vace_batch" else f"vace_batch.{name}")


def bound_fields() -> dict[str, str]:
    """Return the bound fields, for `bind(**fields)` in another process."""
    return dict(_bound.get() or {})


@contextmanager
def bind(**fields: str | None) -> Iterator[None]:
    """Add fields such as `run=`, `clip=` and `window=` to every record logged inside; None removes a field."""
    merged: dict[str, str | None] = {**bound_fields(), **fields}
    token = _bound.set({name: value for name, value in merged.items() if value is not None})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """Format a record as a line of JSON: time (UTC), level, logger, message, bound fields, fields of `extra=`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **bound_fields(),
            **_extras(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return redact(json.dumps(line, default=str, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """Format a record for a terminal: `15:06:07 warning clip=ab12 message`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = [f"{name}={value}" for name, value in (bound_fields() | _extras(record)).items()]
        text = " ".join([clock, record.levelname.lower(), *fields, record.getMessage()])
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return redact(text)


def _extras(record: logging.LogRecord) -> dict[str, object]:
    # Ray adds an underscored time stamp to every record of the process.
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"}


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """A handler that looks up `sys.stderr` for each record, so that a live display or a capture may replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure(*, level: str | None = None, json_lines: bool | None = None) -> None:
    """Send the package's records to stderr; repeated calls replace the handler.

    Args:
        level: debug to error; by default `VACE_BATCH_LOG_LEVEL`, else warning at a terminal and info elsewhere.
        json_lines: by default `VACE_BATCH_LOG_FORMAT` (json or text), else text at a terminal and JSON elsewhere.

    Raises:
        ValueError: the level or the format is unknown.
    """
    terminal = sys.stderr.isatty()
    wanted = _level(level, terminal=terminal)
    if json_lines is None:
        json_lines = _wants_json(terminal=terminal)
    handler = _CurrentStderr()
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter())
    root = logging.getLogger("vace_batch")
    root.handlers[:] = [kept for kept in root.handlers if not isinstance(kept, _CurrentStderr)] + [handler]
    root.setLevel(wanted)
    root.propagate = False
    _configure_events(logging.getLogger(EVENTS), visible=root.isEnabledFor(logging.DEBUG))
    hush()


def _level(level: str | None, *, terminal: bool) -> str:
    """Return the name of the level to log from, in capitals."""
    wanted = (level or os.environ.get(LEVEL_VARIABLE) or ("warning" if terminal else "info")).upper()
    if wanted not in logging.getLevelNamesMapping():
        raise ValueError(f"{LEVEL_VARIABLE}: expected debug, info, warning or error, got {wanted.lower()!r}")
    return wanted


def _wants_json(*, terminal: bool) -> bool:
    named = os.environ.get(FORMAT_VARIABLE) or ("text" if terminal else "json")
    if named not in ("json", "text"):
        raise ValueError(f"{FORMAT_VARIABLE}: expected json or text, got {named!r}")
    return named == "json"


def _configure_events(logger: logging.Logger, *, visible: bool) -> None:
    """Append events as JSON lines to the file of `VACE_BATCH_EVENTS`, and show events in the log at level debug."""
    for handler in logger.handlers:
        handler.close()
    logger.handlers = []
    path = os.environ.get(EVENTS_VARIABLE)
    if path:
        handler = logging.FileHandler(path, encoding="utf-8", delay=True)
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if path or visible else logging.WARNING)
    logger.propagate = visible


def hush() -> None:
    """Show third-party records only from level warning up, and no FutureWarning of third parties."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    warnings.filterwarnings("ignore", category=FutureWarning, module=_OF_THIRD_PARTIES)
