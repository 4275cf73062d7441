"""One window over several processes: equal results, a lost process, and too little memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.engine_windows import ROUNDING, window
from vace_batch.batch.workers import Engines
from vace_batch.errors import ClipError, ClusterError
from vace_batch.options import EngineSettings
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.loading import open_engine
from vace_batch.vace.profiles import revision


@pytest.mark.slow
def test_two_processes_that_share_the_tokens_give_what_one_gives(tmp_path: Path, engine: VaceEngine) -> None:
    shared = open_engine("tiny", settings=EngineSettings(devices=2), prompts_uri=str(tmp_path), texts=["a lake", ""])
    try:
        for vcu in (window(5, steps=2), window(9, steps=1), window(1, steps=1, prompt="")):
            assert (shared.denoise([vcu]) - engine.denoise([vcu])).abs().max() < ROUNDING
        with pytest.raises(ClipError, match="unsupported: sampling.step_cache: expected 0 with engine.devices"):
            shared.denoise([window(5, step_cache=0.1)])
        assert shared.usable
        shared.denoise([window(5, steps=1)])
    finally:
        shared.close()
    assert not shared.usable


@pytest.mark.slow
def test_a_helper_that_dies_is_told_and_the_engine_says_it_is_unusable(tmp_path: Path) -> None:
    shared = open_engine("tiny", settings=EngineSettings(devices=2), prompts_uri=str(tmp_path))
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    with pytest.raises(ClusterError, match="a process that shares this window's tokens is gone"):
        shared.denoise([window(5)])
    assert not shared.usable


SMALL_DEVICES = """
import os
if "DEVICE_TOKENS" in os.environ:
    import torch
    from diffusers.models.attention import FeedForward

    forward = FeedForward.forward

    def check(self, hidden_states, *rest, **named):
        if hidden_states.shape[0] * hidden_states.shape[1] > int(os.environ["DEVICE_TOKENS"]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB")
        return forward(self, hidden_states, *rest, **named)

    FeedForward.forward = check
"""


@pytest.mark.slow
def test_out_of_memory_on_another_device_ends_as_a_smaller_batch_then_offload_then_a_failed_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process of two lacks the memory in the middle of a forward, while the first one waits for it."""
    (tmp_path / "sitecustomize.py").write_text(SMALL_DEVICES, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    engines = Engines(EngineSettings(devices=2), str(tmp_path), {"tiny": ["", "a lake"]})
    windows = [window(5, seed, steps=1) for seed in range(2)]

    def generate(count: int, tokens: int) -> ClipError | int:
        """Generate while the other device holds at most `tokens` tokens of a forward; return the error or the count."""
        monkeypatch.setenv("DEVICE_TOKENS", str(tokens))
        engine = engines.get("tiny", revision("tiny"))
        try:
            return len(engine.generate(windows[:count]))
        except ClipError as error:
            assert error.code == "out_of_memory" and not engine.usable
            return error

    half = windows[0].num_tokens // 2
    together, alone, offloaded = generate(2, half), generate(2, half - 1), generate(1, half - 1)
    assert isinstance(together, ClipError) and together.retryable
    assert isinstance(alone, ClipError) and alone.retryable
    assert isinstance(offloaded, ClipError) and not offloaded.retryable
    assert "--engine devices=4" in offloaded.reason and "sampling.max_tokens=" in offloaded.reason
    assert generate(2, half) == 2, "what comes next finds an engine that works: one by one, offloaded"
    engine = engines.get("tiny", revision("tiny"))
    assert engine.settings.offload == "group" and engine.settings.max_batch_tokens == windows[0].num_tokens
    engine.close()
