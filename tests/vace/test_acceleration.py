"""Attention, storage, compilation and offload of the transformer: which of them change pixels, and by how much."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from tests.support.engine_windows import ROUNDING, counting, relative, window
from vace_batch.errors import UsageError
from vace_batch.options import EngineSettings
from vace_batch.vace.acceleration import CompiledShapes
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel, load


def with_settings(**settings: object) -> VaceEngine:
    dtype = getattr(torch, str(settings["dtype"])) if "dtype" in settings else None
    return VaceEngine(load("tiny", device="cpu", dtype=dtype), EngineSettings.model_validate(settings))


@pytest.mark.parametrize("settings", [{"attention": "_native_math"}, {"offload": "group"}, {"vae_latents": 2}])
def test_what_claims_to_be_exact_is(settings: dict[str, object], engine: VaceEngine) -> None:
    vcu = window(9, steps=2)
    own = with_settings(**settings)
    assert (own.denoise([vcu]) - engine.denoise([vcu])).abs().max() < ROUNDING
    assert np.abs(own.generate([vcu])[0].astype(int) - engine.generate([vcu])[0]).max() <= 1


@pytest.mark.parametrize(
    "settings", [{"storage": "fp8"}, {"dtype": "bfloat16"}, {"storage": "fp8", "offload": "group"}]
)
def test_what_changes_pixels_does_so_by_a_little(settings: dict[str, object], engine: VaceEngine) -> None:
    vcu = window(9, steps=2)
    own = with_settings(**settings)
    assert 0.002 < relative(own.denoise([vcu]), engine.denoise([vcu])) < 0.05
    stored = {parameter.dtype for parameter in own.model.transformer.blocks[1].attn1.to_q.parameters()}
    assert stored == {torch.float8_e4m3fn if "storage" in settings else torch.bfloat16}


def test_a_longer_call_of_the_vae_is_fewer_calls(model: VaceModel) -> None:
    with counting(model.vae.encoder) as one:
        VaceEngine(model).denoise([window(17, steps=1)])
    with counting(model.vae.encoder) as four:
        VaceEngine(model, EngineSettings(vae_latents=4)).denoise([window(17, steps=1)])
    assert (len(one), len(four)) == (2 * 5, 2 * 2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"attention": "nonsense"}, "engine.attention=nonsense: .*must be one of the following: "),
        ({"attention": "flash"}, "engine.attention=flash: .*install `flash-attn"),
        ({"compile": True, "offload": "group"}, "engine.compile: expected false with engine.offload=group"),
        ({"compile": True, "deterministic": True}, "engine.compile: expected false with --deterministic"),
    ],
)
def test_what_cannot_work_here_is_refused_by_name(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        with_settings(**settings)


def test_six_shapes_are_compiled_and_all_later_ones_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: asked.append(stance) or nullcontext())
    shapes = CompiledShapes(True)
    for name in [*"abcdefgh", "a", "h"]:
        with shapes.of(name):
            pass
    assert asked == ["default"] * 6 + ["force_eager"] * 2 + ["default", "force_eager"]
    with CompiledShapes(False).of("x"):
        assert len(asked) == 10


@pytest.mark.slow
def test_compiled_blocks_equal_the_others_and_later_shapes_are_not_compiled() -> None:
    own = with_settings(compile=True)
    plain = VaceEngine(load("tiny", device="cpu"))
    torch._dynamo.utils.counters.clear()
    graphs = []
    for num_frames in (1, 5, 9, 13, 17, 21, 25, 29):
        vcu = window(num_frames, steps=1)
        assert (own.denoise([vcu]) - plain.denoise([vcu])).abs().max() < ROUNDING
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[:6] == sorted(set(graphs[:6])), "each of the first shapes is compiled"
    assert graphs[5] == graphs[6] == graphs[7]
