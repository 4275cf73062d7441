"""Draw a model card's picture of held-out losses.

    python -m recipes.tiny_model.loss_curve LOSSES.jsonl OUT.png

LOSSES.jsonl is the file that `recipes.tiny_model.build` writes beside the context branch, after a first line with the
base's losses without hints: {"base": {"loss": .., "start": ..}}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Canvas = NDArray[np.uint8]
Colour = tuple[int, int, int]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 48, 20, 40, 40
_GREY: Colour = (110, 110, 110)
_CURVES: dict[str, tuple[Colour, str]] = {
    "loss": ((180, 90, 20), "all times, unweighted"),
    "start": ((40, 40, 200), "pure noise, weighted to what is hidden"),
}


def drawn(base: dict[str, float], lines: list[dict[str, Any]]) -> Canvas:
    """Draw the losses by step, BGR (H, W, 3); dashed lines are the base model's losses."""
    highest, last = 1.05 * max(base.values()), max(1, *(line["step"] for line in lines))
    canvas = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)

    def at(step: float, loss: float) -> tuple[int, int]:
        right = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        return int(right), int(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * loss / highest)

    for tick in np.arange(0, highest, 0.5):
        cv2.line(canvas, at(0, tick), at(last, tick), (225, 225, 225), 1)
        _write(canvas, f"{tick:.1f}", (14, at(0, tick)[1] + 4), _GREY)
    for step in np.linspace(0, last, 5):
        _write(canvas, f"{step:,.0f}", (at(step, 0)[0] - 18, _HEIGHT - 22), _GREY)
    for row, (name, (colour, label)) in enumerate(_CURVES.items()):
        points = np.array([at(line["step"], line[name]) for line in lines], np.int32)
        cv2.polylines(canvas, [points], False, colour, 2, cv2.LINE_AA)
        height = at(0, base[name])[1]
        for left in range(_LEFT, _WIDTH - _RIGHT, 12):
            cv2.line(canvas, (left, height), (left + 6, height), colour, 1)
        _write(canvas, f"{label}; dashed: without hints", (_LEFT, 14 + 15 * row), colour)
    _write(canvas, "steps of the context branch", (_WIDTH // 2 - 80, _HEIGHT - 6), _GREY)
    return canvas


def _write(canvas: Canvas, text: str, place: tuple[int, int], colour: Colour) -> None:
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)


def main(losses: Path, out: Path) -> None:
    """Draw the file `losses` into `out`."""
    first, *lines = (json.loads(line) for line in losses.read_text(encoding="utf-8").splitlines())
    cv2.imwrite(str(out), drawn(first["base"], lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
