"""Find the weights of a job's masks, and keep the loaded detectors and segmenters of this process."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vace_batch.errors import ClipError
from vace_batch.manifest.job import Job
from vace_batch.masks.detectors.detection import DEFAULT_CONFIDENCE
from vace_batch.masks.detectors.onnx_export import cached_export
from vace_batch.masks.detectors.text import TextFinder
from vace_batch.masks.detectors.vocabulary import ENCODERS, TOKENIZER
from vace_batch.masks.detectors.yolo import Detector, download_release
from vace_batch.masks.detectors.yolo_onnx import ExportedDetector
from vace_batch.masks.finder import classes_of
from vace_batch.masks.segmenters.sam import Segmenter
from vace_batch.masks.weights import files_beside, find_weights, is_exported, missing_weights

DEFAULT_EVERY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskModels:
    """The weights that masks may be made with; small and picklable, loaded models stay in their process.

    `detector` and `segmenter` are the defaults for jobs that name none. A job's own weights must be one of these two or
    lie in `folders`; pickles also need their SHA-256 in `pickles`. `downloads` is a folder for releases of ultralytics
    that are fetched by name; None forbids fetching. The detector runs on at least every `every`-th frame of even
    motion. `tracker` is bytetrack or botsort. With `exact` detectors compute in float32 on every CPU; by default in
    bfloat16 where the CPU has it and OpenVINO is installed.
    """

    detector: str | None = None
    segmenter: str | None = None
    folders: tuple[str, ...] = ()
    pickles: tuple[str, ...] = ()
    downloads: str | None = None
    device: str = "cpu"
    confidence: float = DEFAULT_CONFIDENCE
    every: int = DEFAULT_EVERY
    tracker: str = "bytetrack"
    exact: bool = False

    def load_detector(self, name: str | None) -> Detector | ExportedDetector:
        """Load the detector that a job calls `name`, or the default one.

        Raises:
            ClipError: `no_detector`, `weights_not_found`, `weights_not_allowed`, `bad_weights`, `wrong_weights`.
        """
        path = self._path(name, self.detector, "detector", "targets")
        beside = self._text_encoders(path, name)
        return _loaded_detector(path, os.stat(path).st_mtime_ns, self.device, beside, exact=self.exact)

    def load_segmenter(self, name: str | None) -> Segmenter:
        """Load the segmenter that a job calls `name`, or the default one.

        Raises:
            ClipError: `no_segmenter`, `weights_not_found`, `weights_not_allowed`, `bad_weights`, `wrong_weights`.
        """
        path = self._path(name, self.segmenter, "segmenter", "points")
        return _loaded_segmenter(path, os.stat(path).st_mtime_ns, self.device)

    def weights_of(self, job: Job) -> dict[str, str | None]:
        """Return the paths of the weights that decide the job's masks, by column; None if not needed or not found."""
        wanted = {
            "detector": (job.detector, self.detector, bool(classes_of(job))),
            "segmenter": (job.segmenter, self.segmenter, bool(job.points or job.segmenter)),
        }
        paths: dict[str, str | None] = {}
        for column, (name, configured, needed) in wanted.items():
            paths[column] = None
            if needed and (name or configured):
                with suppress(ClipError):  # the step prepare raises it
                    paths[column] = self._find(name or configured or "", configured)
        if (detector := paths["detector"]) is not None:
            paths |= {f"detector {Path(file).name}": file for file in self._text_encoders(detector, job.detector)}
        return paths

    def _text_encoders(self, weights: str, name: str | None) -> tuple[str, ...]:
        """Return the text encoders beside the weights that a job calls `name`."""
        trusted = name is None or name in (self.detector, Path(self.detector or "").name)
        return files_beside(weights, (TOKENIZER, *ENCODERS.values()), trusted=trusted, pickles=self.pickles)

    def _path(self, name: str | None, configured: str | None, column: str, needed_by: str) -> str:
        """Find weights by name or default; download a missing release if that is allowed."""
        chosen = name or configured
        if chosen is None:
            raise missing_weights(column, needed_by)
        try:
            return self._find(chosen, configured)
        except ClipError:
            if self.downloads is None or chosen != Path(chosen).name:
                raise
            return download_release(chosen, self.downloads)

    def _find(self, name: str, configured: str | None) -> str:
        return find_weights(name, configured=configured, folders=self.folders, pickles=self.pickles)


@lru_cache(maxsize=2)
def _loaded_detector(
    path: str, stamp: int, device: str, beside: tuple[str, ...], *, exact: bool
) -> Detector | ExportedDetector:
    """Load a detector: on a CPU its ONNX export, up to four times as fast; torch if the export fails."""
    if device != "cpu" and not is_exported(path):
        return Detector.load(path, device=device, beside=beside)
    try:
        return ExportedDetector.load(cached_export(path, _cache_folder()), exact=exact)
    except ClipError as error:
        if error.code != "export_failed":
            raise
        return Detector.load(path, device=device, beside=beside)


def _cache_folder() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vace-batch", "exported")


@lru_cache(maxsize=2)
def _loaded_segmenter(path: str, stamp: int, device: str) -> Segmenter:
    return Segmenter.load(path, device=device)


@lru_cache(maxsize=1)
def text_finder() -> TextFinder:
    """Return this process's text detector."""
    return TextFinder()


def check_names(job: Job, models: MaskModels) -> None:
    """Load a job's detector and look up its class names, before its video is opened.

    Raises:
        ClipError: `unknown_class`, `no_text_encoder`, and errors of `MaskModels.load_detector`.
    """
    if job.needs_pixels:
        checked_detector(job, models)


def checked_detector(job: Job, models: MaskModels) -> Detector | ExportedDetector | None:
    """Load the job's detector and check its class names; None if the job names no class."""
    targets = classes_of(job)
    if not targets:
        return None
    detector = models.load_detector(job.detector)
    detector.check_targets(targets)
    return detector
