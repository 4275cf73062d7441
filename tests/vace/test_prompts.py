"""Prompt embeddings: stored once, shared, and equal to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.support.engine_windows import window
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.loading import open_engine
from vace_batch.vace.model import VaceModel
from vace_batch.vace.prompts import PromptEncoder, PromptStore


def prompts_of(model: VaceModel, uri: str, opened: list[str]) -> PromptEncoder:
    """An encoder that notes when the text encoder is loaded."""

    def open_text() -> tuple[object, object]:
        opened.append("loaded")
        return model.tokenizer, model.text_encoder

    return PromptEncoder(open_text, model.device, model.dtype, store=PromptStore(uri, model.revision))


def test_stored_prompts_need_no_text_encoder_and_are_the_same_bits(model: VaceModel, tmp_path: Path) -> None:
    opened: list[str] = []
    first = prompts_of(model, str(tmp_path), opened)
    first.prepare(["a lake", ""])
    assert opened == ["loaded"], "all texts in one load"
    later = prompts_of(model, str(tmp_path), opened)
    engine = VaceEngine(replace(model, text_encoder=None), prompts=later)
    vcu = window(1)
    assert torch.equal(engine.denoise([vcu]), VaceEngine(model).denoise([vcu]))
    assert opened == ["loaded"]
    assert later(["a lake"]).shape == (1, 512, 64)
    later(["a lake", "fog", "rain"])
    assert opened == ["loaded"] * 2, "only for what is not stored"


def test_an_opened_engine_holds_no_text_encoder_and_shares_its_prompts(tmp_path: Path, model: VaceModel) -> None:
    uri = str(tmp_path / "prompts")
    engine = open_engine("tiny", prompts_uri=uri, texts=["a lake", ""])
    assert engine.model.text_encoder is None
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert max(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 20_000, "padding is not stored"
    vcu = window(1)
    assert torch.equal(engine.denoise([vcu]), VaceEngine(model).denoise([vcu]))


def test_another_model_or_dtype_does_not_get_these_prompts(tmp_path: Path) -> None:
    store = PromptStore(str(tmp_path), "one float32")
    store.put("a", torch.ones(2, 64))
    assert torch.equal(store.get("a"), torch.ones(2, 64))  # type: ignore[arg-type]
    assert PromptStore(str(tmp_path), "one bfloat16").get("a") is None
    assert store.get("b") is None
