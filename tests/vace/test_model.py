"""Loading: the embedded model, a saved directory, and refused models."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vace_batch.errors import UsageError
from vace_batch.vace import model as loading
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel
from vace_batch.vace.profiles import VACE_1_3B, model_files
from vace_batch.vcu import tasks
from vace_batch.vcu.sampling import ResolvedSampling

load = partial(loading.load, device="cpu")

COMMIT = "0123456789abcdef" * 2 + "01234567"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, saved by diffusers and transformers themselves."""
    model, root = load("tiny"), tmp_path_factory.mktemp("saved")
    assert model.text_encoder is not None
    for name, part in (("transformer", model.transformer), ("vae", model.vae), ("text_encoder", model.text_encoder)):
        part.save_pretrained(root / name)
    model.tokenizer.save_pretrained(root / "tokenizer")
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(model_files("tiny").joinpath(*name.split("/")).read_text())
    return root


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def one_window(model: VaceModel) -> np.ndarray:
    frames = np.linspace(0, 255, 5 * 32 * 32 * 3).astype(np.uint8).reshape(5, 32, 32, 3)
    mask = np.zeros(frames.shape[:3], np.bool_)
    mask[:, 8:24, 8:24] = True
    sampling = ResolvedSampling(num_inference_steps=2, guidance_scale=5.0, flow_shift=3.0)
    settings = tasks.WindowSettings(window_id="w", sampling=sampling, prompt="a hill", seed=1)
    return VaceEngine(model).generate([tasks.removal(frames, mask, settings)])[0]


def test_a_saved_directory_gives_the_same_pixels(saved: Path) -> None:
    embedded, local = load("tiny"), load(str(saved))
    np.testing.assert_array_equal(one_window(embedded), one_window(local))
    assert local.profile.max_tokens == embedded.profile.max_tokens
    assert len({embedded.revision, local.revision}) == 2
    assert load("tiny").revision == embedded.revision


def test_the_shipped_weights_are_small_and_finite() -> None:
    files = sorted(Path(str(model_files("tiny"))).rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 14e6
    weights = [weight for file in files for weight in load_file(file).values()]
    assert weights and all(torch.isfinite(weight).all() for weight in weights)


def test_half_precision_keeps_the_vae_and_the_norms_in_full(saved: Path) -> None:
    model = load(str(saved), dtype=torch.bfloat16)
    kinds = {name: weight.dtype for name, weight in model.transformer.named_parameters()}
    assert kinds["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert kinds["blocks.0.scale_shift_table"] == torch.float32
    assert {weight.dtype for weight in model.vae.parameters()} == {torch.float32}
    difference = one_window(model).astype(int) - one_window(load(str(saved)))
    assert np.abs(difference).mean() < 1


def test_another_revision_than_planned_is_refused(saved: Path) -> None:
    revision = load("tiny").revision
    assert load("tiny", revision=revision).revision == revision
    with pytest.raises(UsageError, match=f"planned with revision {revision}, but this node has"):
        load(str(saved), revision=revision)


def test_no_text_encoder_is_loaded_when_none_is_wanted(saved: Path) -> None:
    model = load(str(saved), text_encoder=False)
    assert model.text_encoder is None and model.tokenizer is None


def test_incomplete_weights_are_refused_not_made_up(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    del weights["vace_blocks.1.proj_out.weight"]
    save_file(weights, copy / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="transformer lacks 1 weights: vace_blocks.1.proj_out.weight"):
        load(str(copy))


def test_pickled_weights_are_refused(copy: Path) -> None:
    torch.save(load_file(copy / WEIGHTS), copy / "transformer" / "diffusion_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(str(copy))


@pytest.mark.parametrize("damage", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!"])
def test_damaged_weights_are_refused(copy: Path, damage: bytes) -> None:
    (copy / WEIGHTS).write_bytes(damage)
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(str(copy))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache without a network; the snapshot of COMMIT goes into the returned directory."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / f"models--{VACE_1_3B.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_hub_id_loads_from_the_cache_at_its_commit(saved: Path, hub: Path) -> None:
    shutil.copytree(saved, hub)
    model = load(VACE_1_3B)
    assert load(VACE_1_3B, revision=COMMIT).revision == COMMIT
    assert (model.revision, model.profile.max_tokens) == (COMMIT, 9_216)
    np.testing.assert_array_equal(one_window(model), one_window(load(str(saved))))


def test_a_hub_id_that_is_only_half_in_the_cache_is_a_usage_error(saved: Path, hub: Path) -> None:
    shutil.copytree(saved, hub)
    shutil.rmtree(hub / "transformer")
    with pytest.raises(UsageError, match="model Wan-AI/Wan2.1-VACE-1.3B-diffusers: "):
        load(VACE_1_3B)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="says nothing of its mappings")
def test_weights_in_the_runs_dtype_are_the_file_itself_shared_by_all_processes_of_a_node(saved: Path) -> None:
    model = load(str(saved))
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(saved) in line:
            start, end = line.split()[0].split("-")
            mapped.append(range(int(start, 16), int(end, 16)))
    parts = (model.transformer, model.vae, model.text_encoder)
    weights = [weight for part in parts if part is not None for weight in part.parameters()]
    assert len(weights) > 300
    assert all(any(weight.data_ptr() in place for place in mapped) for weight in weights), "read into memory"
