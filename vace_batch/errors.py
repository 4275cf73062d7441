"""The exception tree.

    VaceBatchError
    ├── UsageError      wrong option, wrong configuration: the command stops, exit code 2
    ├── ManifestError   the manifest has faults: the command stops and prints every one, exit code 2
    ├── ClipError       one clip cannot be done: the clip becomes a failed row with a code and a reason, the run goes on
    └── ClusterError    a machine, an actor or a storage failed: retried with a cap, never a verdict on the data
        └── LostError   the cluster or the store was lost: the command stops, exit code 4; the same command continues

Anything else is a bug; its traceback is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vace_batch.redact import redact


class VaceBatchError(Exception):
    """The base of every error that this package raises on purpose; its text never contains credentials."""

    def __str__(self) -> str:
        return redact(super().__str__())


class UsageError(VaceBatchError):
    """A command, option or configuration is wrong; the message names the setting to change."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a manifest: the place, the value that came, and the values that were expected.

    `row` counts from 0; None is the whole file, and the row of a fault that `of_row` has not placed yet. `line` is the
    line of a CSV, from 1, as an editor counts.
    """

    column: str | None
    got: str
    expected: str
    row: int | None = field(default=None, kw_only=True)
    job_id: str | None = field(default=None, kw_only=True)
    line: int | None = field(default=None, kw_only=True)

    def of_row(self, row: int, job_id: str | None) -> Fault:
        """Return the fault with its row."""
        return replace(self, row=row, job_id=job_id)

    def __str__(self) -> str:
        where = "manifest" if self.row is None else f"row {self.row}"
        if self.line is not None:
            where = f"line {self.line}"
        if self.job_id:
            where += f" ({self.job_id})"
        if self.column:
            where += f", column {self.column}"
        return redact(f"{where}: got {self.got}, expected {self.expected}")


class ManifestError(VaceBatchError):
    """A manifest has faults; `faults` holds every fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class ClipError(VaceBatchError):
    """One clip cannot be done.

    `code` is a stable snake_case word for scripts, `reason` a sentence for people, `retryable` says whether the same
    input may succeed another time.
    """

    def __init__(self, code: str, reason: str, *, retryable: bool = False) -> None:
        self.code = code
        self.reason = redact(reason)
        self.retryable = retryable
        super().__init__(f"{code}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_clip_error, (self.code, self.reason, self.retryable))


def _clip_error(code: str, reason: str, retryable: bool) -> ClipError:
    return ClipError(code, reason, retryable=retryable)


class ClusterError(VaceBatchError):
    """A machine, an actor or a storage failed; the error says nothing about the data."""


class LostError(ClusterError):
    """The Ray cluster or the store was lost, or its credentials have expired; the same command continues."""

    EXIT_CODE = 4

    @property
    def reason(self) -> str:
        """The loss, without the advice that `str` adds."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.reason}; the same command continues the run"


class StoreLostError(LostError):
    """The store of OUT does not answer; nothing more can be written to it at the end of the run."""


_NO_MEMORY = ("can't allocate memory", "Failed to allocate")
"""Texts in the errors of torch on a CPU, onnxruntime and OpenCV, which have no class for a lack of memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a machine or device ran out of memory, which says nothing about the data. Never imports torch."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    native = isinstance(error, RuntimeError) or type(error).__module__.startswith(("cv2", "onnxruntime"))
    return native and any(text in str(error) for text in _NO_MEMORY)
