"""Test LoRAs: every form of key names gives the same weights, and removing LoRAs restores the base bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import save_file

from vace_batch.errors import ClipError
from vace_batch.options import EngineSettings
from vace_batch.vace import weights
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.lora_fusion import LoraSwitch
from vace_batch.vace.model import VaceModel, load
from vace_batch.vace.wan_names import original_name
from vace_batch.vcu import tasks
from vace_batch.vcu.sampling import Lora, ResolvedSampling
from vace_batch.vcu.unit import VCU

Tensors = dict[str, torch.Tensor]
RANK, ALPHA = 2, 6.0
TARGETS = (
    "blocks.0.attn1.to_q", "blocks.2.attn2.to_out.0", "blocks.1.ffn.net.0.proj", "blocks.2.ffn.net.2",
    "vace_blocks.0.attn1.to_v", "vace_blocks.1.proj_out", "vace_blocks.0.proj_in", "condition_embedder.time_proj",
    "condition_embedder.text_embedder.linear_1", "proj_out", "vace_patch_embedding",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(model: VaceModel) -> Tensors:
    return {name: weight.clone() for name, weight in model.transformer.state_dict().items()}


@pytest.fixture
def switch(model: VaceModel, base: Tensors) -> LoraSwitch:
    for name, weight in model.transformer.state_dict().items():
        assert torch.equal(weight, base[name])
    return LoraSwitch(model.transformer)


def halves(base: Tensors, seed: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Make down and up of each target; a convolution's halves have the convolution's axes."""
    noise = torch.Generator().manual_seed(seed)
    made = {}
    for target in TARGETS:
        shape = base[target + ".weight"].shape
        down = 0.1 * torch.randn(RANK, *shape[1:], generator=noise)
        up = 0.1 * torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=noise)
        made[target] = down, up
    return made


def delta(pair: tuple[torch.Tensor, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    down, up = pair
    return (up.flatten(1) @ down.flatten(1)).reshape(shape)


def peft(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    return {f"transformer.{target}.lora_A.weight": down, f"transformer.{target}.lora_B.weight": up}


def peft_named(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    name = f"base_model.model.{target}"
    return {f"{name}.lora_A.default.weight": down, f"{name}.lora_B.default.weight": up}


def original(target: str) -> str:
    return original_name(target + ".weight").removesuffix(".weight")


def comfy(target: str, down: torch.Tensor, up: torch.Tensor, halves: tuple[str, str] = ("lora_A", "lora_B")) -> Tensors:
    name = f"diffusion_model.{original(target)}"
    return {f"{name}.{halves[0]}.weight": down, f"{name}.{halves[1]}.weight": up}


def bare(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    return {f"{original(target)}.lora_A.default.weight": down, f"{original(target)}.lora_B.default.weight": up}


def kohya(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    name = "lora_unet_" + original(target).replace(".", "_")
    return {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": torch.tensor(ALPHA),
    }


def videox(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    return {key.replace("lora_unet_", "lora_unet__"): value for key, value in kohya(target, down, up).items()}


def half_dotted(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    name = "lora_unet_" + re.sub(r"blocks\.", "blocks_", original(target))
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}


def lycoris(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    return {key.replace("lora_unet_", "lycoris_"): value for key, value in kohya(target, down, up).items()}


def kohya_of_diffusers(target: str, down: torch.Tensor, up: torch.Tensor) -> Tensors:
    name = "lora_unet_" + target.replace(".", "_")
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}


FORMS: dict[str, tuple[Callable[..., Tensors], float]] = {
    "diffusers": (peft, 1.0),
    "peft, adapter named": (peft_named, 1.0),
    "Wan's names, ComfyUI's prefix": (comfy, 1.0),
    "Wan's names, lora_down and lora_up": (partial(comfy, halves=("lora_down", "lora_up")), 1.0),
    "Wan's names alone": (bare, 1.0),
    "kohya with alpha": (kohya, ALPHA / RANK),
    "kohya's form of diffusers' names": (kohya_of_diffusers, 1.0),
    "VideoX-Fun, a second underscore": (videox, ALPHA / RANK),
    "kohya's prefix, Wan's dots": (half_dotted, 1.0),
    "LyCORIS' plain algorithm": (lycoris, ALPHA / RANK),
}


def write(path: Path, tensors: Tensors, weight: float = 1.0, metadata: Mapping[str, str] | None = None) -> Lora:
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, path, metadata=dict(metadata or {"format": "pt"})
    )
    return Lora(uri=str(path), revision=weights.file_revision(str(path)), weight=weight)


def lora(folder: Path, base: Tensors, seed: int = 0, weight: float = 1.0, form: str = "diffusers") -> Lora:
    make = FORMS[form][0]
    pairs = halves(base, seed)
    tensors = {key: value for target, pair in pairs.items() for key, value in make(target, *pair).items()}
    return write(folder / f"{form} {seed}.safetensors", tensors, weight)


def assert_changed_by(model: VaceModel, base: Tensors, *parts: tuple[float, int]) -> None:
    """Assert that the transformer is the base plus `weight` times each seed's LoRA, with other weights untouched."""
    wanted = {name: weight.clone() for name, weight in base.items()}
    for weight, seed in parts:
        for target, pair in halves(base, seed).items():
            name = target + ".weight"
            wanted[name] = wanted[name] + weight * delta(pair, base[name].shape)
    for name, found in model.transformer.state_dict().items():
        torch.testing.assert_close(found, wanted[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_weights(
    form: str, model: VaceModel, base: Tensors, switch: LoraSwitch, tmp_path: Path
) -> None:
    switch.use([lora(tmp_path, base, weight=0.5, form=form)])
    assert_changed_by(model, base, (0.5 * FORMS[form][1], 0))
    switch.restore()


def test_original_names_are_those_that_diffusers_converts_back(base: Tensors) -> None:
    there = {original_name(name): index for index, name in enumerate(base)}
    assert len(there) == len(base)
    back = convert_wan_transformer_to_diffusers(dict(there))
    assert {name: list(base)[index] for name, index in back.items()} == {name: name for name in base}


def test_agrees_with_diffusers_own_conversion(base: Tensors, model: VaceModel, tmp_path: Path) -> None:
    """Compare the blocks that diffusers' converter knows; the converter leaves vace_blocks out."""
    pairs = {target: pair for target, pair in halves(base).items() if target.startswith("blocks.")}
    ours = {key: value for target, pair in pairs.items() for key, value in comfy(target, *pair).items()}
    theirs = _convert_non_diffusers_wan_lora_to_diffusers(dict(ours))
    switch = LoraSwitch(model.transformer)
    switch.use([write(tmp_path / "ours.safetensors", ours)])
    first = {name: weight.clone() for name, weight in model.transformer.state_dict().items()}
    switch.use([write(tmp_path / "theirs.safetensors", theirs)])
    for name, weight in model.transformer.state_dict().items():
        assert torch.equal(weight, first[name])
    switch.restore()


def test_several_at_once_and_in_place_of_each_other(
    model: VaceModel, base: Tensors, switch: LoraSwitch, tmp_path: Path
) -> None:
    one, two = lora(tmp_path, base, 1, 0.7), lora(tmp_path, base, 2, -0.3, form="Wan's names alone")
    switch.use([one, two])
    assert_changed_by(model, base, (0.7, 1), (-0.3, 2))
    switch.use([two])
    assert_changed_by(model, base, (-0.3, 2))
    switch.use([replace(two, weight=1.0)])
    assert_changed_by(model, base, (1.0, 2))
    switch.use([])
    assert_is_base(model, base)


def assert_is_base(model: VaceModel, base: Tensors) -> None:
    for name, weight in model.transformer.state_dict().items():
        assert torch.equal(weight, base[name]), name


def test_taken_out_the_base_is_there_bit_for_bit_in_half_precision_too(tmp_path: Path) -> None:
    half = load("tiny", device="cpu", dtype=torch.bfloat16)
    before = {name: weight.clone() for name, weight in half.transformer.state_dict().items()}
    switch = LoraSwitch(half.transformer)
    for seed in range(5):  # subtracting what was added would be off by rounding
        switch.use([lora(tmp_path, before, seed)])
        assert not torch.equal(
            half.transformer.state_dict()["blocks.0.attn1.to_q.weight"], before["blocks.0.attn1.to_q.weight"]
        )
    switch.use([])
    assert_is_base(half, before)


def test_full_differences_and_biases(model: VaceModel, base: Tensors, switch: LoraSwitch, tmp_path: Path) -> None:
    """Fuse the keys of extracted LoRAs: .diff of norms and modulations, .diff_b of biases, .diff_m of modulations."""
    named = {
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "diffusion_model.head.modulation.diff": "scale_shift_table",
        "diffusion_model.blocks.1.diff_m": "blocks.1.scale_shift_table",
        "diffusion_model.vace_blocks.1.diff_m": "vace_blocks.1.scale_shift_table",
        "diffusion_model.blocks.2.norm3.diff_b": "blocks.2.norm2.bias",
        "diffusion_model.time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "transformer.vace_blocks.0.proj_out.lora_B.bias": "vace_blocks.0.proj_out.bias",
    }
    tensors = {key: torch.full(base[name].shape, 0.25) for key, name in named.items()}
    switch.use([write(tmp_path / "full.safetensors", tensors, 2.0)])
    for name, weight in model.transformer.state_dict().items():
        expected = base[name] + 0.5 if name in named.values() else base[name]
        torch.testing.assert_close(weight, expected)
    switch.restore()
    assert_is_base(model, base)


def test_alpha_in_pefts_metadata_counts(model: VaceModel, base: Tensors, switch: LoraSwitch, tmp_path: Path) -> None:
    pairs = halves(base)
    tensors = {key: value for target, pair in pairs.items() for key, value in peft(target, *pair).items()}
    settings = {"transformer.r": RANK, "transformer.lora_alpha": 8}
    switch.use([write(tmp_path / "a.safetensors", tensors, metadata={"lora_adapter_metadata": json.dumps(settings)})])
    assert_changed_by(model, base, (8 / RANK, 0))
    switch.restore()


BAD: dict[str, tuple[Tensors, str]] = {
    "unknown weight": (
        peft("blocks.9.attn1.to_q", torch.zeros(2, 128), torch.zeros(128, 2)),
        "key transformer.blocks.9.attn1.to_q.lora_A.weight: the model has no such weight",
    ),
    "of a larger model": (
        peft("blocks.0.attn1.to_q", torch.zeros(2, 1536), torch.zeros(1536, 2)),
        r"blocks.0.attn1.to_q.lora_A.weight: expected \(2, 128\) for a weight of \(128, 128\), got \(2, 1536\)",
    ),
    "ranks differ": (
        peft("blocks.0.attn1.to_q", torch.zeros(2, 128), torch.zeros(128, 3)),
        r"lora_B.weight: expected \(128, 2\) for a weight of \(128, 128\), got \(128, 3\)",
    ),
    "half a pair": ({"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 128)}, "without the other half of its pair"),
    "alpha alone": ({"blocks.0.attn1.to_q.alpha": torch.tensor(2.0)}, "without its lora_A and lora_B"),
    "another block of VACE": (
        comfy("vace_blocks.9.attn1.to_q", torch.zeros(2, 128), torch.zeros(128, 2)),
        "key diffusion_model.vace_blocks.9.self_attn.q.lora_A.weight: the model has no such weight",
    ),
    "of an image-to-video model": (
        {"diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight": torch.zeros(2, 128)},
        "key diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight: the model has no such weight",
    ),
    "two experts in one file": (
        {"transformer_2.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 128)},
        "key transformer_2.blocks.0.attn1.to_q.lora_A.weight: the model has no such weight",
    ),
    "LoHa": ({"blocks.0.attn1.to_q.hada_w1_a": torch.zeros(2, 2)}, "not of a plain LoRA"),
    "LoKr": ({"lycoris_blocks_0_self_attn_q.lokr_w1": torch.zeros(2, 2)}, "not of a plain LoRA"),
    "a weight in place of a difference": (
        {"diffusion_model.blocks.0.norm3.set_weight": torch.zeros(128)},
        "key diffusion_model.blocks.0.norm3.set_weight: not of a plain LoRA",
    ),
    "dora": (
        peft("blocks.0.attn1.to_q", torch.zeros(2, 128), torch.zeros(128, 2))
        | {"blocks.0.attn1.to_q.dora_scale": torch.ones(128)},
        "key blocks.0.attn1.to_q.dora_scale: not of a plain LoRA",
    ),
    "no bias there": ({"blocks.0.attn1.norm_q.diff_b": torch.zeros(128)}, "the model has no bias there"),
    "a vector": (
        {
            "blocks.0.attn1.to_q.lora_A.weight": torch.zeros(128),
            "blocks.0.attn1.to_q.lora_B.weight": torch.zeros(128, 2),
        },
        "expected",
    ),
    "wrong difference": ({"blocks.0.attn1.to_q.diff": torch.zeros(3)}, r"expected \(128, 128\), got \(3,\)"),
    "nothing": ({}, "no LoRA in it"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_file_and_key(
    case: str, model: VaceModel, base: Tensors, switch: LoraSwitch, tmp_path: Path
) -> None:
    tensors, words = BAD[case]
    good, bad = lora(tmp_path, base), write(tmp_path / "bad.safetensors", tensors)
    switch.use([good])
    with pytest.raises(ClipError, match=f"lora_unusable: LoRA .*bad.safetensors: .*{words}"):
        switch.use([good, bad])
    assert_is_base(model, base)


def test_pickles_and_damaged_files_are_refused(base: Tensors, switch: LoraSwitch, tmp_path: Path) -> None:
    pickle = tmp_path / "a.safetensors"
    torch.save(peft("blocks.0.attn1.to_q", *halves(base)["blocks.0.attn1.to_q"]), pickle)
    with pytest.raises(ClipError, match="a.safetensors: not a safetensors file .* pickles are not read"):
        switch.use([Lora(uri=str(pickle), revision=weights.file_revision(str(pickle)), weight=1.0)])
    with pytest.raises(ClipError, match="no such file"):
        switch.use([Lora(uri=str(tmp_path / "none.safetensors"), revision="0", weight=1.0)])


def test_a_file_that_changed_since_it_was_planned_is_refused(base: Tensors, switch: LoraSwitch, tmp_path: Path) -> None:
    planned = lora(tmp_path, base, 1)
    Path(planned.uri).write_bytes(Path(lora(tmp_path, base, 2).uri).read_bytes())
    with pytest.raises(ClipError, match="planned with revision"):
        switch.use([planned])


def window(seed: int, *loras: Lora) -> VCU:
    frames = np.linspace(0, 255, 5 * 32 * 32 * 3).astype(np.uint8).reshape(5, 32, 32, 3)
    mask = np.zeros(frames.shape[:3], np.bool_)
    mask[:, 8:24, 8:24] = True
    sampling = ResolvedSampling(num_inference_steps=2, guidance_scale=1.0, flow_shift=3.0, loras=loras)
    return tasks.removal(frames, mask, tasks.WindowSettings(window_id="w", sampling=sampling, seed=seed))


def test_the_engine_gives_each_window_its_own_loras(base: Tensors, model: VaceModel, tmp_path: Path) -> None:
    """Mixed windows of one call, each as if it were alone with a fresh model."""
    one, two = lora(tmp_path, base, 1), lora(tmp_path, base, 2)
    windows = [window(1), window(1, one), window(1, two, one), window(2), window(1, replace(one, weight=0.5))]
    engine = VaceEngine(model)
    together = engine.generate(windows)
    alone = [VaceEngine(load("tiny", device="cpu")).generate([vcu])[0] for vcu in windows]
    for ours, theirs in zip(together, alone, strict=True):
        # A batch and a single window differ by rounding, which may tip a pixel.
        off = np.abs(ours.astype(int) - theirs)
        assert off.max() <= 1 and (off > 0).mean() < 0.001
    assert len({frames.tobytes() for frames in together}) == len(windows)
    engine.generate([window(1)])
    assert_is_base(model, base)


def test_windows_with_other_loras_are_no_batch(base: Tensors, tmp_path: Path) -> None:
    one = lora(tmp_path, base, 1)
    keys = {window(1).batch_key, window(1, one).batch_key, window(1, replace(one, weight=0.5)).batch_key}
    assert len(keys) == 3
    assert window(1, one).batch_key == window(2, one).batch_key


@pytest.mark.parametrize("settings", [EngineSettings(storage="fp8"), EngineSettings(offload="group")], ids=str)
def test_weights_that_rest_elsewhere_are_changed_and_restored_too(
    settings: EngineSettings, base: Tensors, tmp_path: Path
) -> None:
    engine = VaceEngine(load("tiny", device="cpu"), settings)
    transformer = engine.model.transformer
    before = {name: weight.detach().clone() for name, weight in transformer.named_parameters()}
    plain, changed = window(1), window(1, lora(tmp_path, base, 1))
    first, other, again = (engine.generate([vcu])[0] for vcu in (plain, changed, plain))
    assert (other != first).any()
    np.testing.assert_array_equal(again, first)
    for name, weight in transformer.named_parameters():
        assert torch.equal(weight.float(), before[name].float()) and weight.dtype == before[name].dtype
