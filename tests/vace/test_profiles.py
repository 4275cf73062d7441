"""Profiles: limits, sampling, cost; known without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vace_batch.costs import Speed
from vace_batch.errors import UsageError
from vace_batch.geometry import Size, token_count
from vace_batch.manifest.job import Sampling
from vace_batch.vace import sizing
from vace_batch.vace.profiles import VACE_1_3B, VACE_14B, model_files, profile, revision
from vace_batch.vcu.sampling import ResolvedSampling


def test_limits_are_those_of_the_published_sizes() -> None:
    small, large = profile(VACE_1_3B), profile(VACE_14B)
    assert (small.max_tokens, large.max_tokens) == (32_760, 75_600)
    assert (small.max_frames, small.overlap_frames) == (81, 16)
    tiny = profile("tiny")
    assert (tiny.max_frames, tiny.overlap_frames) == (33, 8)
    assert tiny.max_tokens == token_count(33, Size(512, 512))


@pytest.mark.parametrize(
    ("ref", "size", "tflop"),
    [
        (VACE_1_3B, Size(256, 256), 29.6),
        (VACE_1_3B, Size(384, 384), 88.7),
        (VACE_1_3B, Size(832, 480), 427.0),
        (VACE_1_3B, Size(1280, 720), 1880.5),
        (VACE_14B, Size(256, 256), 190.5),
        (VACE_14B, Size(832, 480), 2029.6),
        (VACE_14B, Size(1280, 720), 7864.1),
    ],
)
def test_forward_cost_agrees_with_torch_flop_counter(ref: str, size: Size, tflop: float) -> None:
    counted = profile(ref).architecture.forward_flop(token_count(81, size)) / 1e12
    assert counted == pytest.approx(tflop, rel=2e-3)


@pytest.mark.parametrize(("ref", "heads", "every"), [(VACE_1_3B, 12, 2), (VACE_14B, 40, 5)])
def test_weights_are_counted_as_the_real_class_has_them(ref: str, heads: int, every: int) -> None:
    import torch
    from diffusers import AutoencoderKLWan, WanVACETransformer3DModel

    architecture = profile(ref).architecture
    with torch.device("meta"):
        model = WanVACETransformer3DModel(
            num_attention_heads=heads,
            ffn_dim=architecture.ffn_dim,
            num_layers=architecture.num_layers,
            vace_layers=list(range(0, architecture.num_layers, every)),
        )
        vae = AutoencoderKLWan()
    assert model.config.num_attention_heads * model.config.attention_head_dim == architecture.dim
    assert sum(weight.numel() for weight in model.parameters()) == architecture.num_weights
    assert sum(weight.numel() for weight in vae.parameters()) == sizing.VAE_WEIGHTS


def test_equal_embeddings_halve_the_transformer_and_nothing_else() -> None:
    model = profile(VACE_1_3B)
    sampling, size = model.sampling("removal"), Size(832, 480)
    both = model.window_flop(81, size, sampling)
    one = model.window_flop(81, size, sampling, guided=False)
    vae = model.architecture.vae_flop(81 * 832 * 480, 1)
    assert both - vae == pytest.approx(2 * (one - vae))
    assert Speed.sustained(500).seconds(*model.window_parts(81, size, sampling)) == pytest.approx(both / 500e12)


def test_a_guidance_interval_costs_what_it_guides() -> None:
    model = profile(VACE_1_3B)
    half = model.sampling("restyle", Sampling(guidance_from=0.1, guidance_until=0.6))
    assert half.guided_steps == tuple(range(5, 30))
    vae = model.architecture.vae_flop(81 * 832 * 480, 1)
    flop = [model.window_flop(81, Size(832, 480), s) - vae for s in (model.sampling("restyle"), half)]
    assert flop[1] == pytest.approx(0.75 * flop[0])
    with pytest.raises(ValueError, match="guidance_from, guidance_until: expected 0 <= from <= until <= 1, got 0.6"):
        model.sampling("restyle", Sampling(guidance_from=0.6, guidance_until=0.5))
    with pytest.raises(ValueError, match="step_cache: expected 0 .off. up to, not including, 1, got 1"):
        model.sampling("restyle", Sampling(step_cache=1))


def test_sampling_takes_every_override() -> None:
    model = profile("tiny")
    given = Sampling(
        num_inference_steps=7, guidance_scale=0.0, flow_shift=9.0, conditioning_scale=0.5, mask_rule="nearest"
    )
    assert model.sampling("removal", given) == ResolvedSampling(
        num_inference_steps=7, guidance_scale=0.0, flow_shift=9.0, conditioning_scale=0.5, mask_rule="nearest"
    )
    assert model.sampling("removal").mask_rule == "max4"
    assert model.sampling("restyle").mask_rule == "nearest"
    with pytest.raises(ValueError, match="mask_rule: expected one of nearest, max4, got 'mean'"):
        model.sampling("removal", Sampling(mask_rule="mean"))


@pytest.mark.parametrize("ref", ["nothing-here", "/no/such/directory", "owner/other-model", "../up"])
def test_unknown_models_are_refused(ref: str) -> None:
    with pytest.raises(UsageError, match="model: "):
        profile(ref)


def _layout(root: Path, **transformer: object) -> Path:
    source = model_files("tiny")
    for name in ("model_index.json", "transformer/config.json", "vae/config.json"):
        target = root / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(source.joinpath(*name.split("/")).read_text())
    config = json.loads((root / "transformer/config.json").read_text())
    (root / "transformer/config.json").write_text(json.dumps(config | transformer))
    return root


@pytest.mark.parametrize(("layers", "max_tokens"), [(40, 75_600), (30, 32_760), (4, 9_216)])
def test_a_directory_is_known_by_its_depth(tmp_path: Path, layers: int, max_tokens: int) -> None:
    found = profile(str(_layout(tmp_path, num_layers=layers)))
    assert (found.max_tokens, found.architecture.num_layers) == (max_tokens, layers)


def test_a_directory_that_is_no_vace_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model_index.json is missing"):
        profile(str(tmp_path))
    _layout(tmp_path, _class_name="WanTransformer3DModel")
    with pytest.raises(UsageError, match="expected a WanVACETransformer3DModel, got WanTransformer3DModel"):
        profile(str(tmp_path))
    (tmp_path / "transformer/config.json").write_text("{")
    with pytest.raises(UsageError, match="transformer/config.json cannot be read"):
        profile(str(tmp_path))


def test_revision_follows_weights_and_configuration_only(tmp_path: Path) -> None:
    root = _layout(tmp_path)
    weights = root / "transformer" / "diffusion_pytorch_model.safetensors"
    seen = set()
    for content in (b"", b"a" * 100, b"a" * 99 + b"b", b"a" * 101):
        weights.write_bytes(content)
        seen.add(revision(str(root)))
    assert len(seen) == 4
    (root / "README.md").write_text("words")
    assert revision(str(root)) in seen
    (root / "vae/config.json").write_text("{}")
    assert revision(str(root)) not in seen


def test_revision_samples_large_files_to_their_end(tmp_path: Path) -> None:
    root = _layout(tmp_path)
    weights = root / "vae" / "diffusion_pytorch_model.safetensors"
    with weights.open("wb") as file:
        file.truncate(100 << 20)
    before = revision(str(root))
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert revision(str(root)) != before


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=600
    )


def test_planning_does_not_import_torch() -> None:
    code = "import sys; from vace_batch.vace import profiles; profiles.profile('tiny'); profiles.revision('tiny');"
    result = _python(code + "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_a_hub_id_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    code = f"from vace_batch.vace import profiles; profiles.revision({VACE_1_3B!r})"
    result = _python(code, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "UsageError: model Wan-AI/Wan2.1-VACE-1.3B-diffusers: not in the local cache" in result.stderr
    assert "or give a directory" in result.stderr
