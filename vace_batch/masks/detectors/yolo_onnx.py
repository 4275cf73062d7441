"""Detect objects on a CPU with an exported model, ONNX or OpenVINO, without torch and ultralytics.

Shape suffixes: H, W are the network's rows and columns, C channels (RGB), N objects, A anchors, F an anchor's values.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vace_batch.errors import ClipError
from vace_batch.geometry import Size, align_up
from vace_batch.masks.detectors.backends import Floats, Network, load_errors, metadata_of, open_session
from vace_batch.masks.detectors.detection import Detection, MaskLogits, class_numbers, one_line, outward
from vace_batch.masks.store import make_mask

DEFAULT_SIDE_PX = 640

# Both are ultralytics' defaults: its torch loop and this one must find the same objects.
_OVERLAP = 0.7
_MOST_OBJECTS = 300
_PAD_GRAY = 114


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The place of a picture of `display` size in the network's: shrunk to `inner`, moved by (`left`, `top`), gray
    around.

    `Letterbox.of(Size(1920, 1080), 640, 32)` has a network of 640x384 and an inner of 640x360.
    """

    display: Size
    network: Size
    inner: Size
    left: int
    top: int

    @staticmethod
    def of(display: Size, side: int, stride: int, fixed: Size | None = None) -> Letterbox:
        """Choose the smallest network size in multiples of `stride` with longer side `side`, or the `fixed` size."""
        room = fixed or Size(side, side)
        scale = min(room.width / display.width, room.height / display.height)
        inner = Size(max(round(display.width * scale), 1), max(round(display.height * scale), 1))
        network = fixed or Size(align_up(inner.width, stride), align_up(inner.height, stride))
        left = round((network.width - inner.width) / 2 - 0.1)
        top = round((network.height - inner.height) / 2 - 0.1)
        return Letterbox(display, network, inner, left, top)

    def place(self, rgb_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Place an image of any size that shows the whole display in the network's image (H, W, 3)."""
        if rgb_HWC.shape[:2] != (self.inner.height, self.inner.width):
            rgb_HWC = np.asarray(cv2.resize(rgb_HWC, (self.inner.width, self.inner.height)), np.uint8)
        out = np.full((self.network.height, self.network.width, 3), _PAD_GRAY, np.uint8)
        out[self.top : self.top + self.inner.height, self.left : self.left + self.inner.width] = rgb_HWC
        return out


class ExportedDetector:
    """A loaded detection or segmentation export; keep one an actor, not one a frame."""

    def __init__(self, weights: str, metadata: Mapping[str, str], threads: int, *, exact: bool = False) -> None:
        self._weights = weights
        self._threads = threads
        self._exact = exact
        self._end2end = metadata.get("end2end") == "True"
        self.classes: dict[int, str] = ast.literal_eval(metadata["names"])
        self.stride = int(metadata.get("stride", 32))
        made_for = ast.literal_eval(metadata.get("imgsz", str([DEFAULT_SIDE_PX])))
        self.side = align_up(max(made_for), self.stride)
        self._fixed = None if _is_dynamic(metadata) else Size(made_for[-1], made_for[0])
        self._sessions: dict[Size, Network] = {}

    @classmethod
    def load(cls, weights: str, *, threads: int | None = None, exact: bool = False) -> ExportedDetector:
        """Load an export of ultralytics, a local `.onnx` file or an OpenVINO folder, on `threads` CPU threads.

        The default of `threads` is `OMP_NUM_THREADS`. `exact`: float32 on every CPU.

        Raises:
            ClipError: `weights_not_found`, `bad_weights`, `wrong_weights` (another task), `no_openvino`.
        """
        if not Path(weights).exists():
            raise ClipError("weights_not_found", f"weights {weights}: no such file; give a path on this machine")
        threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 1)
        try:
            metadata = metadata_of(weights, threads)
            task = metadata["task"]
            detector = cls(weights, metadata, threads, exact=exact)
        except load_errors() as error:
            raise ClipError("bad_weights", f"weights {weights} cannot be loaded: {one_line(error)}") from error
        if task not in ("detect", "segment") or not detector.classes:
            reason = f"weights {weights}: expected a detection or segmentation model, got {task}"
            raise ClipError("wrong_weights", reason)
        return detector

    def check_targets(self, targets: Sequence[str]) -> list[int]:
        """Look up the class numbers of `targets`, without regard to case and outer blanks.

        Raises:
            ClipError: `unknown_class`, with the nearest names that the weights know.
        """
        return class_numbers(targets, self.classes, self._weights)

    def letterbox(self, display: Size) -> Letterbox:
        """Return the letterbox in which `detect_small` takes frames of `display` size."""
        return Letterbox.of(display, self.side, self.stride, self._fixed)

    def detect(
        self, rgb_HWC: npt.NDArray[np.uint8], targets: Sequence[str], *, conf: float, index: int = 0
    ) -> list[Detection]:
        """Detect objects of the `targets` classes in one frame, highest confidence first; masks at full resolution.

        Raises:
            ClipError: `unknown_class`.
        """
        box = self.letterbox(Size(rgb_HWC.shape[1], rgb_HWC.shape[0]))
        return self.detect_small(box.place(rgb_HWC), box, self.check_targets(targets), conf=conf, index=index)

    def detect_small(
        self, placed_HWC: npt.NDArray[np.uint8], box: Letterbox, numbers: Sequence[int], *, conf: float, index: int = 0
    ) -> list[Detection]:
        """Detect objects of class `numbers` in a frame that lies in its letterbox already."""
        if not numbers:
            return []
        outputs = self._run(placed_HWC, box.network)
        edges, scores, labels, coefficients = self._decode(outputs[0][0], set(numbers), conf)
        if not len(scores):
            return []
        logits = None
        if len(outputs) > 1:
            shapes = (box.network.height, box.network.width), (box.display.height, box.display.width)
            logits = MaskLogits.of(outputs[1][0], coefficients, *shapes)
        gain = np.array([box.display.width / box.inner.width, box.display.height / box.inner.height] * 2)
        edges = (edges - np.array([box.left, box.top] * 2)) * gain
        detections = []
        for number, (row, score, label) in enumerate(
            zip(edges.tolist(), scores.tolist(), labels.tolist(), strict=True)
        ):
            where = outward(row, box.display)
            if where is None:
                continue
            mask = None if logits is None else make_mask(index, logits.bits(number, where), (where.x, where.y))
            detections.append(Detection(box=where, label=self.classes[label], confidence=score, mask=mask))
        return detections

    def session(self, network: Size) -> Network:
        """Return the bare network for images of one size: (1,3,H,W) in 0..1 to its outputs."""
        if network not in self._sessions:
            self._sessions[network] = open_session(self._weights, self._threads, network, exact=self._exact)
        return self._sessions[network]

    def _run(self, placed_HWC: npt.NDArray[np.uint8], network: Size) -> list[Floats]:
        # blobFromImage makes planes of floats from bytes in one pass.
        return self.session(network)(np.asarray(cv2.dnn.blobFromImage(placed_HWC, 1 / 255), np.float32))

    def _decode(
        self, outputs_FA: Floats, numbers: set[int], conf: float
    ) -> tuple[Floats, Floats, npt.NDArray[np.intp], Floats]:
        """Return edges (N,4) in network pixels, scores (N,), class numbers (N,) and mask coefficients (N,C), highest
        score first."""
        if self._end2end:
            rows = outputs_FA[outputs_FA[:, 4] > conf]
            labels = rows[:, 5].astype(np.intp)
            wanted = np.flatnonzero(np.isin(labels, list(numbers)))[:_MOST_OBJECTS]
            rows = rows[wanted]
            return rows[:, :4], rows[:, 4], labels[wanted], rows[:, 6:]
        last = 4 + len(self.classes)
        candidates = np.flatnonzero(outputs_FA[4:last].max(axis=0) > conf)
        picked = outputs_FA[:, candidates].T
        labels = picked[:, 4:last].argmax(axis=1)
        asked = np.isin(labels, list(numbers))
        picked = picked[asked]
        labels = labels[asked]
        scores = picked[:, 4:last].max(axis=1) if len(picked) else np.empty(0, np.float32)
        half = picked[:, 2:4] / 2
        edges = np.concatenate([picked[:, :2] - half, picked[:, :2] + half], axis=1)
        keep = _suppressed(edges, scores, labels)[:_MOST_OBJECTS]
        return edges[keep], scores[keep], labels[keep], picked[keep, last:]


def _suppressed(edges: Floats, scores: Floats, labels: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the rows that no row of their class with a higher score covers, highest score first."""
    order = np.argsort(-scores, kind="stable")
    areas = np.prod(edges[:, 2:] - edges[:, :2], axis=1)
    kept_rows = []
    while order.size:
        first = order[0]
        rest = order[1:]
        kept_rows.append(first)
        low = np.maximum(edges[first, :2], edges[rest, :2])
        high = np.minimum(edges[first, 2:], edges[rest, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        # A head without distance distributions may turn a box inside out, which gives it a negative area.
        covered = (common > 0) & (common > _OVERLAP * (areas[first] + areas[rest] - common))
        order = rest[~covered | (labels[rest] != labels[first])]
    return np.array(kept_rows, np.intp)


def _is_dynamic(metadata: Mapping[str, str]) -> bool:
    return "'dynamic': True" in metadata.get("args", "")
