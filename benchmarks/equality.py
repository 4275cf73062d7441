"""Measure how far the engine is from diffusers' WanVACEPipeline, and from itself in batches and in another process.

    python benchmarks/equality.py [--json]      about a minute on one core

The cases and the way the stock pipeline is asked are those of tests/vace/test_engine.py: real classes, the weights
of the embedded model, float32. Latents have unit size.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.vace.test_engine import CASES, ROUNDING, ask_stock, open_stock, removal  # noqa: E402
from vace_batch.vace.engine import VaceEngine  # noqa: E402
from vace_batch.vace.model import load  # noqa: E402
from vace_batch.vace.profiles import model_files  # noqa: E402

BATCHES = (2, 4)


def main() -> None:
    torch.set_num_threads(1)
    if "--digests" in sys.argv:
        print(json.dumps(digests()))
        return
    rows = [{"what": what, "largest error": error} for what, error in measured()]
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return
    print(f"| what | largest error (bound {ROUNDING:g}) |\n|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['largest error']:.2g} |")


def measured() -> Iterator[tuple[str, float]]:
    engine = VaceEngine(load("tiny", device="cpu"))
    stock = open_stock(str(model_files("tiny")))
    for name, make in CASES.items():
        vcu = make()
        yield f"latents against WanVACEPipeline: {name}", error(engine.denoise([vcu]), ask_stock(stock, vcu))
    for size in BATCHES:
        batch = [replace(removal(seed=20 + k), prompt=f"field {k}", negative_prompt="fog") for k in range(size)]
        together = engine.denoise(batch)
        alone = torch.cat([engine.denoise([vcu]) for vcu in batch])
        yield f"latents, a batch of {size} against its windows alone", error(together, alone)
    first = in_another_process()
    second = in_another_process()
    yield "frames in two processes, windows that differ in a bit", sum(first[name] != second[name] for name in CASES)


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


def digests() -> dict[str, str]:
    engine = VaceEngine(load("tiny", device="cpu"))
    made = {name: engine.generate([make()])[0] for name, make in CASES.items()}
    return {name: hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest() for name, frames in made.items()}


def in_another_process() -> dict[str, str]:
    done = subprocess.run([sys.executable, __file__, "--digests"], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
