"""Training as VACE was trained: the base stays as it is, the context branch starts as nothing and learns from hints."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor

from recipes.tiny_model.linear import LinearAutoencoder, transplant
from recipes.tiny_model.loss_curve import drawn
from vace_batch.errors import UsageError
from vace_batch.geometry import Size
from vace_batch.vace.profiles import TEXT_TOKENS
from vace_batch.vace.training.clips import Clips
from vace_batch.vace.training.flow_matching import (
    Batch,
    begin_base,
    begin_context,
    context_parameters,
    flow_loss,
    use_padded_text,
)
from vace_batch.vace.training.loop import Schedule, fit, trained_weights
from vace_batch.vace.training.lora import add_lora
from vace_batch.vace.training.pictures import Pictures, draw
from vace_batch.vace.training.samples import TASKS, draw_sample, sample_of
from vace_batch.vace.training.styles import STYLES, styled

WIDTHS = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
}


def base() -> WanTransformer3DModel:
    torch.manual_seed(0)
    model = WanTransformer3DModel(**WIDTHS)
    begin_base(model)
    return model


def adapted() -> WanVACETransformer3DModel:
    model = WanVACETransformer3DModel(**WIDTHS, vace_layers=[0, 1], vace_in_channels=12)
    model.load_state_dict(base().state_dict(), strict=False)
    begin_context(model)
    return model


def batch(generator: np.random.Generator, count: int = 4) -> Batch:
    """Latents of one random constant each, which the control tells: without it nothing can be known of them."""
    constants = torch.from_numpy(generator.normal(0, 1, (count, 4, 1, 1, 1)).astype(np.float32))
    latents = constants.expand(count, 4, 2, 4, 4).contiguous()
    return Batch(
        latents_BCthw=latents,
        control_BCthw=torch.cat([latents, torch.zeros(count, 8, 2, 4, 4)], dim=1),
        text_BLD=torch.zeros(count, 3, 8),
    )


def forward(model: torch.nn.Module, given: Batch, **control: Tensor) -> Tensor:
    arguments = {"hidden_states": given.latents_BCthw, "timestep": torch.tensor([500.0] * 4)}
    with torch.no_grad():
        return model(**arguments, encoder_hidden_states=given.text_BLD, return_dict=False, **control)[0]


def test_at_first_the_adapted_model_is_the_base_bit_for_bit() -> None:
    given = batch(np.random.default_rng(0))
    hinted = forward(
        adapted(),
        given,
        control_hidden_states=given.control_BCthw,
        control_hidden_states_scale=torch.ones(2),
    )
    assert torch.equal(hinted, forward(base(), given))
    assert hinted.std() > 0.1


def test_only_the_context_branch_learns_and_hints_make_the_loss_smaller(tmp_path: Path) -> None:
    model = adapted()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = context_parameters(model)
    fit(model, trained, batch, Schedule(steps=25, learning_rate=1e-2, warmup=3), tmp_path)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith("vace_") for name in changed)
    assert {name for name in before if name.startswith("vace_blocks.0.proj_out")} <= changed
    held_out = batch(np.random.default_rng(9), count=32)
    with torch.no_grad():
        with_hints, without = (
            float(flow_loss(model, held_out, flow_shift=3.0, generator=torch.Generator().manual_seed(1), hints=scale))
            for scale in (1.0, 0.0)
        )
    assert with_hints < 0.9 * without


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def run(directory: Path, interrupt: bool) -> dict[str, Tensor]:
        schedule = Schedule(steps=6, learning_rate=1e-3, warmup=2, checkpoint_every=3)
        stopped = []

        def batch_or_stop(generator: np.random.Generator) -> Batch:
            stopped.append(1)
            if interrupt and len(stopped) == 5:
                raise KeyboardInterrupt
            return batch(generator)

        model = adapted()
        try:
            fit(model, context_parameters(model), batch_or_stop, schedule, directory)
        except KeyboardInterrupt:
            again = adapted()
            assert len(fit(again, context_parameters(again), batch, schedule, directory)) == 3
        return trained_weights(directory)

    whole, resumed = run(tmp_path / "whole", False), run(tmp_path / "stopped", True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_another_schedule_or_other_parameters_are_not_gone_on_with(tmp_path: Path) -> None:
    model = adapted()
    fit(model, context_parameters(model), batch, Schedule(steps=1), tmp_path)
    with pytest.raises(UsageError, match="was written with"):
        fit(model, context_parameters(model), batch, Schedule(steps=2), tmp_path)
    with pytest.raises(UsageError, match="holds other parameters"):
        fit(model, add_lora(adapted(), 2), batch, Schedule(steps=1), tmp_path)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        trained_weights(tmp_path / "none")


def test_short_text_is_what_512_rows_are() -> None:
    given = batch(np.random.default_rng(0))
    text = torch.cat([torch.randn(4, 3, 8), torch.zeros(4, 1, 8)], dim=1)
    whole = torch.cat([text, torch.zeros(4, TEXT_TOKENS - 4, 8)], dim=1)
    model = base()
    fields = {"latents_BCthw": given.latents_BCthw, "control_BCthw": given.control_BCthw}
    expected = forward(model, Batch(**fields, text_BLD=whole))
    assert not torch.allclose(expected, forward(model, Batch(**fields, text_BLD=text)), atol=1e-5)
    use_padded_text(model)
    torch.testing.assert_close(forward(model, Batch(**fields, text_BLD=text)), expected, atol=1e-5, rtol=1e-4)


def test_the_vae_starts_as_the_linear_autoencoder() -> None:
    torch.manual_seed(0)
    linear = LinearAutoencoder(8, 4)
    vae = AutoencoderKLWan(
        base_dim=8,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        z_dim=4,
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )
    transplant(linear, vae)
    pictures = torch.rand(2, 3, 1, 32, 32) - 0.5
    blocks = pictures[:, :, 0].unflatten(2, (16, 2)).unflatten(4, (16, 2))
    grouped = blocks.permute(0, 1, 5, 3, 2, 4).flatten(1, 3)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
        torch.testing.assert_close(latents[:, :, 0], linear.encode(grouped), atol=0.01, rtol=0.02)
        still = vae.decode(torch.cat([latents] * 3, dim=2)).sample
    assert still.shape == (2, 3, 9, 32, 32)
    torch.testing.assert_close(still, still[:, :, :1].expand_as(still), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    folder = tmp_path_factory.mktemp("photos")
    picture = draw(120, 160, np.random.default_rng(0))
    cv2.imwrite(str(folder / "one.png"), ((picture + 1) * 127.5).astype(np.uint8))
    return Clips(Pictures(folder))


def test_samples_of_every_task_are_windows(clips: Clips) -> None:
    generator = np.random.default_rng(0)
    frames = draw_sample(clips, Size(64, 48), 5, generator).target_THWC
    for task in TASKS:
        sample = sample_of(task, frames, generator)
        assert sample.vcu.size == Size(64, 48)
        assert sample.vcu.num_frames == len(sample.target_THWC) == 5
        known = ~sample.vcu.neutral_THW & ~sample.vcu.mask_THW
        np.testing.assert_array_equal(sample.target_THWC[known], sample.vcu.frames_THWC[known])
    removal = sample_of("removal", frames, generator).vcu
    assert removal.reactive_is_neutral and removal.mask_THW[0].any()


def test_no_photographs_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds none that can be read"):
        Pictures(tmp_path)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_what_is_seen(style: str) -> None:
    frames = (draw(32, 32, np.random.default_rng(3)) * 60 + 127).astype(np.uint8)[None]
    assert np.abs(styled(frames, style).astype(int) - frames).mean() > 10
    assert styled(frames, None) is frames


def test_a_curve_falls_where_losses_do() -> None:
    lines = [{"step": 0, "loss": 1.0, "start": 1.8}, {"step": 100, "loss": 0.4, "start": 0.5}]
    picture = drawn({"loss": 1.1, "start": 2.0}, lines)
    rows, columns = np.nonzero((picture == (180, 90, 20)).all(2) & (np.arange(len(picture)) > 100)[:, None])
    assert rows[columns.argmax()] > rows[columns.argmin()]
