"""Sample latents from noise: UniPC over Wan's flow schedule, with guidance only where it changes the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from diffusers import UniPCMultistepScheduler, WanVACETransformer3DModel

from vace_batch.geometry import latent_num_frames
from vace_batch.vace.model import VaceModel
from vace_batch.vace.step_cache import StepCache
from vace_batch.vcu.sampling import ResolvedSampling
from vace_batch.vcu.unit import VCU


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Condition:
    """The condition of a forward: text embeddings, VACE's control, and the control's weight in each layer."""

    text_BLD: torch.Tensor
    control_BCthw: torch.Tensor
    scale: torch.Tensor

    def of(self, windows: Sequence[int]) -> _Condition:
        """Return the condition of some windows of the batch."""
        return replace(self, text_BLD=self.text_BLD[windows], control_BCthw=self.control_BCthw[windows])


def noise(vcu: VCU, channels: int) -> torch.Tensor:
    """Draw the starting noise, float32 (channels, references + t, h, w), on the CPU from the window's seed alone.

    So it does not depend on the batch, the actor or the device that the window comes to.
    """
    latent_frames = latent_num_frames(vcu.num_frames) + len(vcu.references)
    shape = (1, channels, latent_frames, vcu.size.height // 8, vcu.size.width // 8)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(vcu.seed))[0]


def sample(
    model: VaceModel,
    noise_BCthw: torch.Tensor,
    control_BCthw: torch.Tensor,
    conditional_BLD: torch.Tensor,
    unconditional_BLD: torch.Tensor,
    sampling: ResolvedSampling,
) -> torch.Tensor:
    """Denoise into latents, float32, of the noise's shape (reference frames included).

    Guidance pushes away from `unconditional_BLD`: u + g * (c - u), with g of the expert at work. At a scale of 1 or
    less, at steps outside of the guidance interval, and for windows whose two embeddings are equal (c - u adds
    nothing), the second forward is left out.

    Raises:
        ValueError: noise and control differ in length or size.
    """
    if noise_BCthw.shape[2:] != control_BCthw.shape[2:]:
        raise ValueError(
            f"noise {tuple(noise_BCthw.shape)} and control {tuple(control_BCthw.shape)}: expected equal t, h, w"
        )
    scheduler = UniPCMultistepScheduler.from_config(model.scheduler_config, flow_shift=sampling.flow_shift)
    scheduler.set_timesteps(sampling.num_inference_steps, device=model.device)
    control = control_BCthw.to(model.dtype)
    scale = torch.full(
        (len(model.transformer.config.vace_layers),),
        sampling.conditioning_scale,
        device=model.device,
        dtype=model.dtype,
    )
    guided = _guided(conditional_BLD, unconditional_BLD)
    towards = _Condition(text_BLD=conditional_BLD, control_BCthw=control, scale=scale)
    away = _Condition(text_BLD=unconditional_BLD, control_BCthw=control, scale=scale)
    new_cache = partial(StepCache, sampling.step_cache) if sampling.step_cache else lambda: None
    caches = {id(expert): (new_cache(), new_cache()) for expert in model.experts}
    levels = [timestep / scheduler.config.num_train_timesteps for timestep in scheduler.timesteps.tolist()]
    latents = noise_BCthw
    for step, timestep in enumerate(scheduler.timesteps):
        transformer, guidance = expert_at(model, sampling, levels[step])
        conditional_cache, unconditional_cache = caches[id(transformer)]
        inputs = latents.to(model.dtype)
        velocity = _forward(transformer, inputs, timestep, towards, conditional_cache)
        if guided and guidance > 1 and step in sampling.guidance_interval:
            opposite = _forward(transformer, inputs[guided], timestep, away.of(guided), unconditional_cache)
            velocity[guided] = opposite + guidance * (velocity[guided] - opposite)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def expert_at(
    model: VaceModel, sampling: ResolvedSampling, noise_level: float
) -> tuple[WanVACETransformer3DModel, float]:
    """Return the transformer that works at a noise level of 0..1 (the second below the boundary), and its guidance."""
    boundary = model.profile.boundary_ratio if sampling.boundary_ratio is None else sampling.boundary_ratio
    if model.transformer_2 is None or boundary is None or noise_level >= boundary:
        return model.transformer, sampling.guidance_scale
    second = sampling.guidance_scale_2
    return model.transformer_2, sampling.guidance_scale if second is None else second


def _guided(conditional_BLD: torch.Tensor, unconditional_BLD: torch.Tensor) -> Sequence[int]:
    """Return the windows of a batch whose two embeddings differ, which guidance changes."""
    pairs = zip(conditional_BLD, unconditional_BLD, strict=True)
    return [
        index for index, (conditional, unconditional) in enumerate(pairs) if not torch.equal(conditional, unconditional)
    ]


def _forward(
    transformer: WanVACETransformer3DModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    condition: _Condition,
    cache: StepCache | None,
) -> torch.Tensor:
    more = {} if cache is None else {"step_cache": cache}
    velocity: torch.Tensor = transformer(
        hidden_states=latents,
        timestep=timestep.expand(latents.shape[0]),
        encoder_hidden_states=condition.text_BLD,
        control_hidden_states=condition.control_BCthw,
        control_hidden_states_scale=condition.scale,
        return_dict=False,
        **more,
    )[0]
    return velocity
