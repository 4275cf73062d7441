"""The records of an output folder: one type a kind, one docstring a field, shown in `docs/reference/output.md`.

`Ledger` writes and reads the records of `ledger/done`, `ledger/quarantine` and `ledger/mishaps`; an artifact is named
by its path relative to OUT, so that OUT can be moved.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from vace_batch.errors import UsageError
from vace_batch.quality.verdict import VerdictName

SCHEMA_VERSION = 1
"""Raised by every change of a name or a meaning in OUT; another version's OUT is refused."""

SCHEMA_KEY = "schema_version"

KINDS = ("prep", "window", "clip", "quality", "attempts")
"""Kinds of finished work; a key is `<kind>-<digest>`."""


def check_version(place: str, found: object, remedy: str) -> None:
    """Refuse files of another schema version; `remedy` tells the user how to continue.

    Raises:
        UsageError: `found` is not this version.
    """
    if found != SCHEMA_VERSION:
        version = "no schema version" if found is None else f"schema version {found}"
        raise UsageError(f"{place}: has {version}, expected {SCHEMA_VERSION}; {remedy}")


class Stamp(TypedDict, total=False):
    """The fields that the ledger adds to every finished record."""

    key: str
    """The record's name: `<kind>-<digest>`."""
    commit: str
    """A random name of the writer that was first."""
    finished_at: str
    """UTC, ISO 8601."""


class PrepRecord(Stamp):
    """A prepared clip: `ledger/done`, kind `prep`."""

    plan: dict[str, Any]
    """The clip's plan: shots, regions, windows, and the artifacts of masks and recovered pixels."""


class Seal(TypedDict, total=False):
    """The published video of a record; the record's work is done only while the file agrees."""

    num_bytes: int
    """Size of the video."""
    sha256: str
    """SHA-256 of the video."""
    output_version: str
    """Time of change and size of the video, or etag and size in a store: the cheap look of every run."""


class WindowRecord(Stamp):
    """A generated window: `ledger/done`, kind `window`."""

    artifact: str
    """The file of generated frames, lossless."""
    digest: str
    """BLAKE2b-128 of the artifact."""
    seed: int
    """The seed that the window was sampled with."""
    seconds: float
    """Seconds of the GPU step, writing included."""
    device_s: float
    """Seconds of the device alone."""


class WindowRow(TypedDict):
    """One window of a finished clip: in `window_rows` of the clip's record and of the results."""

    key: str
    """The window's record."""
    region: int
    """Number of the clip's region."""
    start: int
    """First frame."""
    stop: int
    """Last frame + 1."""
    num_frames: int
    """Frames that the model generated, padding included."""
    width: int
    """Pixels across, as generated."""
    height: int
    """Pixels down, as generated."""
    seed: int
    """The seed that the window was sampled with."""
    seconds: float
    """Seconds of the GPU step."""


class ClipRecord(Stamp, Seal, total=False):
    """A finished clip: `ledger/done`, kind `clip`; with the fields of `Seal`."""

    status: Literal["done", "skipped"]
    """`skipped`: nothing to change was found, the output is a copy of the source; a skipped clip has no verdict."""
    job_id: str
    """The manifest row's job."""
    output: str
    """The finished video."""
    reason: str | None
    """Why the clip was skipped: what was not found, in how many frames."""
    runs: int
    """Runs of the stitch step until it succeeded."""
    windows: int
    """Number of windows in the clip."""
    window_rows: list[WindowRow]
    """The clip's windows."""
    seconds: float
    """Seconds of stitching and of all windows."""
    settings: dict[str, Any]
    """Model, preset, prompts and sampling that made the clip."""
    predicted_gpu_s: float
    """GPU-seconds that the plan predicted."""
    notes: list[str]
    """Remarks for people: a fallback, a choice."""
    copied_frames: int
    """Frames copied bit for bit from the source."""
    masks: str
    """The masks' file, with `--keep-masks`."""
    masks_coco: str | None
    """The masks as COCO JSON, where they are short."""


class FailureRecord(TypedDict, total=False):
    """A clip that failed for good: `ledger/quarantine`, kind `clip`."""

    key: str
    """The clip's key."""
    commit: str
    """A random name of the writer that was first."""
    failed_at: str
    """UTC, ISO 8601."""
    status: Literal["failed"]
    """Always `failed`."""
    job_id: str
    """The manifest row's job."""
    output: str
    """The video that the clip would have become."""
    step: str
    """The step that failed."""
    error_code: str
    """The kind of failure, one word."""
    reason: str
    """The failure as a sentence, without credentials."""
    retryable: bool
    """Whether a later run may succeed."""
    runs: int
    """Runs of the step that failed."""
    windows: int
    """Always 0."""
    seconds: float
    """Always 0."""
    settings: dict[str, Any]
    """Model, preset, prompts and sampling that were asked for."""


class QualityRecord(Stamp, total=False):
    """The metrics of a finished clip: `ledger/done`, kind `quality`."""

    clip_key: str
    """The measured clip."""
    checks: list[str]
    """The checks that apply to the job's task."""
    metrics: dict[str, float]
    """The measured values by check, where higher is worse; those of the untouched picture if asked for."""
    broken: list[str]
    """Faults of the file itself: frames, size, times, tracks."""
    doubts: list[str]
    """Notes about the masks for which a person must review the clip."""
    unmeasured: str
    """Why the clip could not be measured, where that is so."""
    measure_again: bool
    """True where that says nothing about the clip, as a lack of memory: the next run measures the clip again."""
    windows: int
    """Number of windows in the clip."""
    gpu_s: float
    """GPU-seconds of the clip's windows."""
    seconds: float
    """Seconds of the measuring step."""
    verdict: VerdictName
    """The verdict by the thresholds of the run that measured."""
    reasons: list[str]
    """Why the verdict is no pass, worst first."""
    thresholds: str
    """Digest of these thresholds; under others the verdict is made again from `metrics`."""


class AttemptRecord(TypedDict):
    """One attempt at a clip: in `attempts` of the record of that kind."""

    remedy: str
    """The change that the attempt made; `first` is the job as asked."""
    model: str
    """The attempt's model."""
    clip_key: str
    """The attempt's clip."""
    output: str
    """The attempt's video."""
    verdict: VerdictName
    """The attempt's verdict."""
    score: float | None
    """How far over the thresholds, 0 for a pass; null for an attempt that failed."""
    reasons: list[str]
    """Why the verdict is no pass, worst first."""
    checks: list[str]
    """The checks that gave the reasons."""
    windows: int
    """Number of windows in the attempt."""
    gpu_s: float
    """GPU-seconds of the attempt's windows."""
    metrics: dict[str, float]
    """The measured values, by check."""
    error: str | None
    """Why the attempt failed, where it did."""
    settings: dict[str, Any]
    """The values that attempts differ in."""


class AttemptsRecord(Stamp, Seal):
    """The attempts at a clip and the best one: `ledger/done`, kind `attempts`; with the fields of `Seal`."""

    clip_key: str
    """The clip as the job asks, which is the first attempt."""
    attempts: list[AttemptRecord]
    """The attempts in the order in which they were made."""
    chosen: int
    """Index of the attempt that is the clip's output."""
    retry_gpu_s: float
    """GPU-seconds of all attempts after the first."""


DoneRecord = PrepRecord | WindowRecord | ClipRecord | QualityRecord | AttemptsRecord
"""The records of `ledger/done`."""


class MishapRecord(TypedDict, total=False):
    """One run of a step that went wrong: `ledger/mishaps`."""

    key: str
    """The clip or window that the step was for."""
    at: str
    """UTC, ISO 8601."""
    step: str
    """The step that went wrong."""
    reason: str
    """The error as a sentence, without credentials."""
    traceback: str
    """The traceback, without credentials."""


Amounts = dict[str, float]
"""`gpu_s`, `cpu_s` and `num_bytes`."""


class UsageRecord(TypedDict):
    """Predicted and real cost of one run: `ledger/usage/<run>.json`, written again while the run goes on."""

    began_at: str
    """UTC, ISO 8601."""
    at: str
    """When the record was written."""
    predicted: dict[str, Amounts]
    """Predicted `gpu_s`, `cpu_s` and `num_bytes` of finished work, by step."""
    real: dict[str, Amounts]
    """The same amounts as measured, by step."""
    repeated: Amounts
    """Amounts of work that was lost, failed or stopped."""
    held: Amounts
    """Amounts for which actors stood ready, waiting included."""
    stopped: str | None
    """Why the budget let no further window begin, if it did."""


class HeartbeatRecord(TypedDict):
    """Signs of life of the run that goes on: `progress.json`."""

    at: str
    """UTC, ISO 8601."""
    beat: int
    """Number of times that the record was written."""
    state: str
    """`goes on` or `ended`."""
    host: str
    """The driver's machine."""
    firsts: dict[str, float]
    """Seconds until the first window, and until each step of starting was done."""
    progress: dict[str, Any] | None
    """Counters of clips, windows and frames; null before the first."""


class OverrideRecord(TypedDict):
    """Values that `retry --set` gave to rows: `ledger/overrides`, one file a retry."""

    at: str
    """UTC, ISO 8601."""
    set: dict[str, Any]
    """The values, by the manifest's column."""
    rows: dict[str, str]
    """Digest of each row as it was then, by job; the values hold while the row is unchanged."""


class RunRecord(TypedDict):
    """The last run on OUT: `run.json`."""

    schema_version: int
    """The version of these records; a command refuses an OUT with another one."""
    manifest: str
    """The manifest's URI."""
    manifest_digest: str
    """SHA-256 of the manifest."""
    options: dict[str, Any]
    """All options of the run."""
    plan: str
    """The file below `plan/` with one row a job."""
    started_at: str
    """UTC, ISO 8601."""


class VerdictRow(TypedDict):
    """The columns of the results that quality fills."""

    verdict: VerdictName | None
    """pass, review or fail; none where the clip was skipped or not measured."""
    score: float | None
    """How far over the thresholds, 0 for a pass."""
    reasons: list[str]
    """Why the verdict is no pass, worst first."""
    checks: list[str]
    """The checks that gave the reasons."""
    metrics: str | None
    """JSON of the measured values, by check."""
    attempts: str | None
    """JSON of `attempts` and `chosen`, with `--retries`."""
    retry_gpu_s: float
    """GPU-seconds of the attempts after the first."""


class JobRow(VerdictRow):
    """A row of the results, and of `jobs` in the JSON of `run` and `status`, which has some of the columns."""

    job_id: str
    """The manifest row's job."""
    status: Literal["done", "failed", "skipped", "pending"]
    """What became of the job; the results' partition."""
    output_uri: str | None
    """The finished video; none where the job failed."""
    error_code: str | None
    """The kind of failure, [one word](../troubleshooting.md#a-row-failed)."""
    reason: str | None
    """Why the job failed, was skipped or is pending."""
    runs: int
    """Runs of the step that ended the clip; more than one after a crash."""
    windows: int
    """Number of windows in the clip."""
    seconds: float
    """Seconds of stitching and of all windows."""
    finished_at: str | None
    """UTC, ISO 8601."""
    notes: list[str]
    """Remarks for people: a fallback, a choice."""
    masks: str | None
    """The masks' file below OUT, with `--keep-masks`."""
    masks_coco: str | None
    """The masks as COCO JSON, with `--keep-masks`, where they are short."""
    copied_frames: int | None
    """Frames copied bit for bit from the source."""
    settings: str
    """JSON of model, preset, prompts and sampling."""
    clip_key: str
    """The clip's identity."""
    predicted_gpu_s: float | None
    """GPU-seconds that the plan predicted."""
    window_rows: list[WindowRow]
    """The clip's windows: key, region, frames, size, seed, seconds."""
