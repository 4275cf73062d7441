"""Draw endless training samples for the embedded model, and encode them at once.

The encoder of its VAE is a linear autoencoder that was transplanted, so that the autoencoder itself can encode: 50
times as fast, so that no sample need be kept and none is seen twice.

Axes: B samples, C channels, T frames, t latent frames, H rows, W columns.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from recipes.tiny_model.linear import LinearAutoencoder
from recipes.tiny_model.text_encoder import embed
from vace_batch.geometry import Size, token_count
from vace_batch.vace.encode import ConditionEncoder
from vace_batch.vace.training.clips import Clips
from vace_batch.vace.training.flow_matching import TrainingBatch
from vace_batch.vace.training.pictures import Pictures
from vace_batch.vace.training.samples import TASKS, Sample, sample_of
from vace_batch.vcu.unit import Pixels

HELD_OUT = ("graf1", "leuvena", "picture_1a_by_freespace", "china", "rocket")
"""Photographs that nothing is trained on."""

LINEAR_FILE = "linear.pt"

SHAPES = (
    (Size(128, 128), 13, 0.22),
    (Size(96, 96), 33, 0.08),
    (Size(160, 160), 9, 0.14),
    (Size(224, 160), 9, 0.10),
    (Size(256, 256), 5, 0.10),
    (Size(288, 192), 17, 0.06),
    (Size(512, 512), 1, 0.06),
    (Size(640, 352), 1, 0.10),
    (Size(352, 640), 1, 0.04),
    (Size(640, 352), 5, 0.05),
    (Size(144, 96), 17, 0.05),
)
"""Sizes and lengths of samples, and how often each is drawn; the longest side is that of a whole picture's window."""

_TEXT_ROWS = 32

_KNOWN_COUNTS = 0.1
"""What a latent counts in the loss of which nothing is hidden, beside 1.1 of one that is hidden altogether."""

_LEAST_GAIN = 0.3
"""Below it a channel would hardly be learned at all."""

_STREAMS = 32
"""Channels of the control before those of the mask."""

_AHEAD = 12
"""Batches that are drawn before they are needed."""


class LinearEncoder(ConditionEncoder):
    """Control and target latents by the linear autoencoder that `vae`'s encoder was made of."""

    def __init__(self, linear: LinearAutoencoder, vae: AutoencoderKLWan) -> None:
        super().__init__(vae, torch.device("cpu"), 1 << 24)
        self._linear = linear

    def encode(self, pixels_BCTHW: Tensor) -> Tensor:
        """Encode pixels into normalised latents: frames are averaged in fours, as the transplanted encoder does."""
        first, later = pixels_BCTHW[:, :, :1], pixels_BCTHW[:, :, 1:]
        pixels = torch.cat([first, later.unflatten(2, (-1, 4)).mean(3)], 2) if later.shape[2] else first
        patches = patchify(pixels, 2).transpose(1, 2)
        latents = self._linear.encode(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        return (latents.transpose(1, 2) - self._mean) * self._inverse_std


@torch.no_grad()  # type: ignore[untyped-decorator]
def channel_gains(linear: LinearAutoencoder, std: Sequence[float]) -> Tensor:
    """Measure how much an error of each latent channel, (C,), changes pixels: the mean of flat and noisy errors.

    None is below _LEAST_GAIN; their mean is about 1.
    """
    flat = torch.ones(1, 16, 16)
    noisy = torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(0))
    gains = torch.zeros(len(std))
    grey = linear.decode(torch.zeros(1, len(std), 16, 16))
    for pattern in (flat, noisy):
        energies = torch.zeros(len(std))
        for channel, spread in enumerate(std):
            latents = torch.zeros(len(pattern), len(std), 16, 16)
            latents[:, channel] = spread * pattern
            energies[channel] = (linear.decode(latents) - grey)[..., 8:-8, 8:-8].square().mean()
        gains += energies / energies.mean() / 2
    gains = gains.clamp_min(_LEAST_GAIN)
    return gains / gains.mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The sources of samples: photographs, model parts, shapes, and about how many `tokens` make a batch.

    `photos` is a folder of pictures; `parts` one with vae, text_encoder, tokenizer and LINEAR_FILE.
    """

    photos: Path
    parts: Path
    tokens: int = 1280
    shapes: tuple[tuple[Size, int, float], ...] = SHAPES
    validation: bool = False


class Batches:
    """Batches of samples of all tasks; a batch depends on its generator alone."""

    def __init__(self, sources: Sources) -> None:
        chosen: dict[str, Any] = {"only": HELD_OUT} if sources.validation else {"held_out": HELD_OUT}
        self._sources, self._clips = sources, Clips(Pictures(sources.photos, **chosen))
        vae = AutoencoderKLWan.from_pretrained(sources.parts / "vae").float()
        linear = LinearAutoencoder(vae.config.base_dim, vae.config.z_dim)
        linear.load_state_dict(torch.load(sources.parts / LINEAR_FILE, weights_only=True))
        self.encoder = LinearEncoder(linear.requires_grad_(False), vae)
        self._gains = channel_gains(linear, vae.config.latents_std).view(1, -1, 1, 1, 1)
        self._text = UMT5EncoderModel.from_pretrained(sources.parts / "text_encoder").float().eval()
        self._tokenizer = AutoTokenizer.from_pretrained(sources.parts / "tokenizer")
        self._embedded: dict[str, Tensor] = {}

    def __call__(self, generator: np.random.Generator) -> TrainingBatch:
        """Make one batch of samples of one shape."""
        shapes = self._sources.shapes
        shares = np.array([share for *_, share in shapes])
        size, num_frames, _ = shapes[generator.choice(len(shapes), p=shares / shares.sum())]
        count = max(1, self._sources.tokens // token_count(num_frames, size))
        referred = generator.random() < TASKS["reference"]
        samples: list[Sample] = []
        while len(samples) < count:
            clip = self._clips.clip(size.height, size.width, num_frames, generator)
            frames = np.asarray((clip + 1) * 127.5 + 0.5, np.uint8)
            # a clip is dear and serves twice
            for _ in range(min(2, count - len(samples))):
                samples.append(sample_of("reference" if referred else _task(generator), frames, generator))
        with torch.no_grad():
            return self._batch(samples)

    def _batch(self, samples: Sequence[Sample]) -> TrainingBatch:
        control = torch.cat([self.encoder.control([sample.vcu]) for sample in samples])
        latents = self.encoder.encode(torch.stack([_pixels(sample.target_THWC) for sample in samples]))
        references = control.shape[2] - latents.shape[2]
        if references:
            latents = torch.cat([control[:, : latents.shape[1], :references], latents], dim=2)
        hidden = control[:, _STREAMS:].mean(1, keepdim=True) + _KNOWN_COUNTS
        return TrainingBatch(
            latents_BCthw=latents,
            control_BCthw=control,
            text_BLD=torch.stack([self._prompt(sample.vcu.prompt) for sample in samples]),
            weights_BCthw=self._gains * hidden / hidden.mean((2, 3, 4), keepdim=True),
        )

    def _prompt(self, prompt: str) -> Tensor:
        if prompt not in self._embedded:
            self._embedded[prompt] = embed(self._text, self._tokenizer, [prompt], _TEXT_ROWS)[0]
        return self._embedded[prompt]


def _task(generator: np.random.Generator) -> str:
    names = [name for name in TASKS if name != "reference"]
    shares = np.array([TASKS[name] for name in names])
    return str(generator.choice(names, p=shares / shares.sum()))


def _pixels(frames_THWC: Pixels) -> Tensor:
    return torch.from_numpy(frames_THWC.copy()).permute(3, 0, 1, 2).float() / 255 * 2 - 1


class DrawnAhead:
    """The batches of `Batches`, made ahead by a second process while the first trains."""

    def __init__(self, sources: Sources) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_open, initargs=(sources,))
        self._drawn: dict[int, Future[TrainingBatch]] = {}

    def __call__(self, generator: np.random.Generator) -> TrainingBatch:
        """Return the batch of the seed and step that `generator` was made of."""
        seeds: Any = generator.bit_generator.seed_seq
        seed, step = seeds.entropy
        for number in range(step, step + _AHEAD):
            if number not in self._drawn:
                self._drawn[number] = self._pool.submit(_draw, seed, number)
        return self._drawn.pop(step).result()

    def close(self) -> None:
        """End the second process."""
        self._pool.shutdown(cancel_futures=True)


_BATCHES: list[Batches] = []


def _open(sources: Sources) -> None:
    torch.set_num_threads(1)
    os.nice(5)
    _BATCHES.append(Batches(sources))


def _draw(seed: int, step: int) -> TrainingBatch:
    return _BATCHES[0](np.random.default_rng([seed, step]))
