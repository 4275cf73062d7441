"""Encode a VCU into the 96 control channels of the transformer, and decode latents into pixels.

Axes: B windows, C channels, T frames, t latent frames, H rows, W columns, h = H/8, w = W/8. Encoding follows
`WanVACEPipeline.prepare_video_latents` and `prepare_masks`, batched, references in the official order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify

from vace_batch.geometry import TEMPORAL_STRIDE, latent_num_frames
from vace_batch.vace.private_members import decode_piece, encode_piece
from vace_batch.vcu.unit import VCU

_LATENT_PX = 8
"""Pixels a side of one latent: the VAE's spatial stride."""

_CACHED_SHAPES = 16

_K = TypeVar("_K")
_V = TypeVar("_V")


def latent_mask(mask_THW: torch.Tensor, rule: str) -> torch.Tensor:
    """Shrink a mask (T, H, W) to float (64, t, h, w): each 8x8 block of pixels becomes 64 channels.

    In time, `rule` "nearest" picks one frame for each latent (stock, nearest-exact: 1, 5, 9, ... of 81, and from the
    seventh latent on one inside its own group); "max4" keeps frame 0 and takes the maximum of each group of four.

    Raises:
        ValueError: `rule` is neither, T is not 4n+1, or a side is not a multiple of 8.
    """
    frames, height, width = mask_THW.shape
    if (frames - 1) % TEMPORAL_STRIDE or height % _LATENT_PX or width % _LATENT_PX:
        raise ValueError(f"mask: expected T = 4n+1, H and W multiples of {_LATENT_PX}, got {tuple(mask_THW.shape)}")
    if rule == "nearest":
        mask_tHW = mask_THW[nearest_frames(frames)]
    elif rule == "max4":
        mask_tHW = torch.cat([mask_THW[:1], mask_THW[1:].unflatten(0, (-1, TEMPORAL_STRIDE)).amax(dim=1)])
    else:
        raise ValueError(f"mask_rule: expected nearest or max4, got {rule!r}")
    blocks = mask_tHW.reshape(-1, height // _LATENT_PX, _LATENT_PX, width // _LATENT_PX, _LATENT_PX)
    return blocks.permute(2, 4, 0, 1, 3).flatten(0, 1).float()


def nearest_frames(num_frames: int) -> list[int]:
    """Return, for each latent frame, the frame under its centre, whose mask nearest-exact takes; in integers."""
    latents = latent_num_frames(num_frames)
    return [(2 * index + 1) * num_frames // (2 * latents) for index in range(latents)]


def normalise(vcu: VCU, device: torch.device) -> torch.Tensor:
    """Convert frames to float32 (3, T, H, W) in -1..1; neutral pixels are exactly 0.0."""
    frames_THWC = torch.from_numpy(vcu.frames_THWC.copy()).to(device)
    pixels_CTHW = frames_THWC.permute(3, 0, 1, 2).float() / 255 * 2 - 1
    neutral_THW = torch.from_numpy(vcu.neutral_THW.copy()).to(device)
    return pixels_CTHW.masked_fill_(neutral_THW, 0.0)


class ConditionEncoder:
    """Encodes VCUs of one shape into control latents. Uses the VAE, which keeps state on itself: one thread only.

    `max_pixels` bounds the pixels (width * height * windows) given to the VAE at once, `max_latents` the latent frames:
    it is causal and keeps what it needs of earlier frames, so that the division changes nothing beyond rounding. With
    `exact`, not even rounding depends on the windows that were encoded before.
    """

    def __init__(
        self, vae: AutoencoderKLWan, device: torch.device, max_pixels: int, max_latents: int = 1, *, exact: bool = False
    ) -> None:
        self._vae = vae
        self._device = device
        self._max_pixels = max_pixels
        self._max_latents = max_latents
        self._exact = exact
        shape = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, device=device).view(shape)
        self._inverse_std = 1.0 / torch.tensor(vae.config.latents_std, device=device).view(shape)
        self._neutral: OrderedDict[tuple[int, int, int | None], torch.Tensor] = OrderedDict()

    def control(self, vcus: Sequence[VCU]) -> torch.Tensor:
        """Encode VCUs of equal shape and mask rule into control latents, float32 (B, 96, references + t, h, w)."""
        masks = [torch.from_numpy(vcu.mask_THW.copy()).to(self._device) for vcu in vcus]
        video = torch.cat(
            [self._streams(vcus, masks, reactive=False), self._streams(vcus, masks, reactive=True)], dim=1
        )
        latent_masks = torch.stack(
            [latent_mask(mask, vcu.sampling.mask_rule) for mask, vcu in zip(masks, vcus, strict=True)]
        )
        control = torch.cat([video, latent_masks], dim=1)
        references = self._references(vcus)
        if references is None:
            return control
        silent = references.new_zeros(len(vcus), control.shape[1] - references.shape[1], *references.shape[2:])
        return torch.cat([torch.cat([references, silent], dim=1), control], dim=2)

    def decode(self, latents_BCthw: torch.Tensor) -> torch.Tensor:
        """Decode latents, reference frames removed, into pixels, uint8 (B, T, H, W, 3) on the CPU."""
        height = latents_BCthw.shape[3] * _LATENT_PX
        width = latents_BCthw.shape[4] * _LATENT_PX
        decoded = []
        for latents in latents_BCthw.split(self._at_once(height, width)):
            raw = latents.to(self._vae.dtype) / self._inverse_std + self._mean
            scaled = self._decode(raw).add_(1).mul_(127.5).round_().clamp_(0, 255)
            decoded.append(scaled.to(torch.uint8).permute(0, 2, 3, 4, 1).cpu())
        return torch.cat(decoded)

    def _streams(self, vcus: Sequence[VCU], masks: Sequence[torch.Tensor], *, reactive: bool) -> torch.Tensor:
        """Encode the kept or the masked pixels into latents (B, 16, t, h, w); a neutral stream is looked up instead."""
        latents: list[torch.Tensor | None] = [None] * len(vcus)
        spoken = [i for i, vcu in enumerate(vcus) if not _is_neutral(vcu, reactive=reactive)]
        for chunk in _chunks(spoken, self._at_once(vcus[0].size.height, vcus[0].size.width)):
            pixels = [self._stream_pixels(vcus[i], masks[i], reactive=reactive) for i in chunk]
            for i, latent in zip(chunk, self.encode(torch.stack(pixels)), strict=True):
                latents[i] = latent
        neutral = None if len(spoken) == len(vcus) else self._neutral_latent(vcus[0])
        return torch.stack([latent if latent is not None else neutral for latent in latents])

    def _stream_pixels(self, vcu: VCU, mask: torch.Tensor, *, reactive: bool) -> torch.Tensor:
        """Return the kept or the masked pixels of a window; the other pixels are 0."""
        return normalise(vcu, self._device).masked_fill_(~mask if reactive else mask, 0.0)

    def _neutral_latent(self, vcu: VCU) -> torch.Tensor:
        """Return the latent (16, t, h, w) of a neutral video: a constant of its size, cached at the longest length.

        The VAE is causal, so that a shorter video's latent is the beginning of a longer one's. Kernels may round by the
        length, so with `exact` each length has its own latent.
        """
        wanted = latent_num_frames(vcu.num_frames)
        key = (vcu.size.width, vcu.size.height, wanted if self._exact else None)
        cached = self._neutral.get(key)
        if cached is None or cached.shape[1] < wanted:
            shape = (1, 3, vcu.num_frames, vcu.size.height, vcu.size.width)
            cached = self.encode(torch.zeros(shape, device=self._device))[0]
        _remember(self._neutral, key, cached, _CACHED_SHAPES)
        return cached[:, :wanted]

    def _references(self, vcus: Sequence[VCU]) -> torch.Tensor | None:
        """Encode each reference as a video of one frame: latents (B, 16, references, h, w), None without references."""
        pictures = [torch.from_numpy(picture.copy()) for vcu in vcus for picture in vcu.references]
        if not pictures:
            return None
        encoded = []
        for chunk in _chunks(pictures, self._at_once(vcus[0].size.height, vcus[0].size.width)):
            pixels_BHWC = torch.stack(chunk).to(self._device).float() / 255 * 2 - 1
            encoded.append(self.encode(pixels_BHWC.permute(0, 3, 1, 2).unsqueeze(2)))
        return torch.cat(encoded).squeeze(2).unflatten(0, (len(vcus), -1)).transpose(1, 2)

    def encode(self, pixels_BCTHW: torch.Tensor) -> torch.Tensor:
        """Encode pixels into normalised latents, the posterior's mode: `AutoencoderKLWan._encode` in longer pieces."""
        vae, pixels_BCTHW = self._vae, pixels_BCTHW.to(self._vae.dtype)
        if vae.config.patch_size is not None:
            pixels_BCTHW = patchify(pixels_BCTHW, vae.config.patch_size)
        vae.clear_cache()
        pieces = []
        for start, stop in _pieces(latent_num_frames(pixels_BCTHW.shape[2]), self._max_latents):
            frames = slice(max(0, TEMPORAL_STRIDE * (start - 1) + 1), TEMPORAL_STRIDE * (stop - 1) + 1)
            pieces.append(encode_piece(vae, pixels_BCTHW[:, :, frames]))
        mode: torch.Tensor = vae.quant_conv(torch.cat(pieces, dim=2)).chunk(2, dim=1)[0]
        vae.clear_cache()
        return (mode.float() - self._mean) * self._inverse_std

    def _decode(self, raw_BCthw: torch.Tensor) -> torch.Tensor:
        """Decode into pixels that are not clamped: `AutoencoderKLWan._decode` in longer pieces."""
        vae = self._vae
        vae.clear_cache()
        hidden = vae.post_quant_conv(raw_BCthw)
        pieces = []
        for start, stop in _pieces(hidden.shape[2], self._max_latents):
            pieces.append(decode_piece(vae, hidden[:, :, start:stop], is_first=start == 0))
        vae.clear_cache()
        pixels: torch.Tensor = torch.cat(pieces, dim=2)
        return pixels if vae.config.patch_size is None else unpatchify(pixels, vae.config.patch_size)

    def _at_once(self, height: int, width: int) -> int:
        return max(1, self._max_pixels // (height * width))


def _pieces(latents: int, size: int) -> list[tuple[int, int]]:
    """Cut latent frames into pieces: the first frame alone, as the VAE needs, then `size` at a time."""
    return [(0, 1)] + [(start, min(start + size, latents)) for start in range(1, latents, size)]


def _remember(cache: OrderedDict[_K, _V], key: _K, value: _V, limit: int) -> None:
    """Keep `value` as the most recently used; drop the least recently used beyond `limit`."""
    cache[key] = value
    cache.move_to_end(key)
    while len(cache) > limit:
        cache.popitem(last=False)


def _chunks(items: Sequence[_V], size: int) -> list[Sequence[_V]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _is_neutral(vcu: VCU, *, reactive: bool) -> bool:
    """Test whether the masked pixels, or the kept pixels, of a window are all neutral."""
    return vcu.reactive_is_neutral if reactive else vcu.inactive_is_neutral
