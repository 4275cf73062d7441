"""Versions that the files of infra/ must agree with."""

from __future__ import annotations

from pathlib import Path

from vace_batch import __version__

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
VERSION = __version__
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"
)
KUBERNETES = "1.33"
"""Manifests keep to what this release and later ones know."""
