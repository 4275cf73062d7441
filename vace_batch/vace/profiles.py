"""Model profiles for planning, without torch: limits, default sampling and the cost of a forward."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from vace_batch.errors import ClipError, UsageError
from vace_batch.geometry import Bridging, Size, token_count
from vace_batch.manifest.choices import Task
from vace_batch.manifest.job import Sampling
from vace_batch.manifest.presets import PRESETS, preset_name
from vace_batch.vace import weights
from vace_batch.vcu.sampling import ResolvedSampling

TINY = "tiny"
VACE_1_3B = "Wan-AI/Wan2.1-VACE-1.3B-diffusers"
VACE_14B = "Wan-AI/Wan2.1-VACE-14B-diffusers"

TEXT_TOKENS = 512
"""Length that every prompt is padded to; shorter padding changes the result by about 1%."""

_VAE_ENCODE_FLOP, _VAE_DECODE_FLOP, _VAE_BASE_DIM = 5.06e6, 8.5e6, 96
"""FLOP a pixel and frame of Wan's VAE, counted at its base width."""

_T = TypeVar("_T", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The widths and depths that decide the cost of a forward."""

    num_layers: int
    num_vace_layers: int
    dim: int
    ffn_dim: int
    text_dim: int
    vae_base_dim: int = _VAE_BASE_DIM

    def forward_flop(self, tokens: int) -> float:
        """Count FLOP of one forward over `tokens` tokens of one window (two a multiply-add, 512 text tokens)."""
        n, d = tokens, self.dim
        projections = 2 * d * d * (6 * n + 2 * TEXT_TOKENS)
        attention = 4 * n * d * (n + TEXT_TOKENS)
        block = projections + attention + 4 * n * d * self.ffn_dim
        hints = 2 * n * d * d * (self.num_vace_layers + 1)
        # 16 and 96 channels come in and 16 go out, in patches of 1x2x2
        patches = 2 * n * d * 4 * (16 + 96 + 16)
        text = 2 * TEXT_TOKENS * d * (self.text_dim + d)
        return float(block * (self.num_layers + self.num_vace_layers) + hints + patches + text)

    @property
    def num_weights(self) -> int:
        """Parameters of the transformer with its context branch (diffusers' WanVACETransformer3DModel)."""
        d, vace = self.dim, self.num_vace_layers
        block = 2 * (4 * d * (d + 1) + 2 * d) + 2 * d + 2 * d * self.ffn_dim + self.ffn_dim + d + 6 * d
        branch = vace * (block + d * (d + 1)) + d * (d + 1)
        patches = (16 + 96) * 4 * d + 2 * d
        condition = (256 + 1) * d + d * (d + 1) + 6 * d * (d + 1) + (self.text_dim + 1) * d + d * (d + 1)
        return self.num_layers * block + branch + patches + condition + 64 * (d + 1) + 2 * d

    def forward_bytes(self, tokens: int) -> int:
        """Count the least bytes of a forward over `tokens` tokens at 16 bits: all hints, and a block's widest layer."""
        return 2 * tokens * ((self.num_vace_layers + 3) * self.dim + 2 * self.ffn_dim)

    def vae_flop(self, pixel_frames: int, encodes: int) -> float:
        """Count FLOP of `encodes` encodings and one decoding of `pixel_frames` = width * height * frames pixels."""
        width = (self.vae_base_dim / _VAE_BASE_DIM) ** 2
        return pixel_frames * width * (encodes * _VAE_ENCODE_FLOP + _VAE_DECODE_FLOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """A model's limits, default sampling and architecture.

    `max_frames` is 4n+1; `min_side` is the shortest side, in px, that the model still draws well. `boundary_ratio` is
    the noise level, 0..1, below which the second expert works; None: the model has one transformer.
    """

    name: str
    architecture: Architecture
    max_tokens: int
    max_frames: int
    overlap_frames: int
    min_side: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    boundary_ratio: float | None = None
    bridging: Bridging = Bridging()
    widest_hole_px: int | None = None

    def sampling(self, task: Task, overrides: Sampling | None = None) -> ResolvedSampling:
        """Resolve the sampling of `task`: the `overrides`, then the task's mask rule, then the model's own values.

        Raises:
            ClipError: `unsupported`: a value for the second expert of a model that has one transformer.
            ValueError: an override is out of range.
        """
        given = overrides or Sampling()
        guidance = _first(given.guidance_scale, self.guidance_scale)
        return ResolvedSampling(
            num_inference_steps=_first(given.num_inference_steps, self.num_inference_steps),
            guidance_scale=guidance,
            guidance_scale_2=self._of_second("guidance_scale_2", given.guidance_scale_2, guidance),
            boundary_ratio=self._of_second("boundary_ratio", given.boundary_ratio, self.boundary_ratio),
            flow_shift=_first(given.flow_shift, self.flow_shift),
            conditioning_scale=_first(given.conditioning_scale, 1.0),
            mask_rule=given.mask_rule or PRESETS[preset_name(task)].sampling.mask_rule or "nearest",
            guidance_from=_first(given.guidance_from, 0.0),
            guidance_until=_first(given.guidance_until, 1.0),
            step_cache=_first(given.step_cache, 0.0),
        )

    def _of_second(self, name: str, given: float | None, default: float | None) -> float | None:
        """Resolve a value of the second expert; None for a model with one transformer."""
        if self.boundary_ratio is not None:
            return default if given is None else given
        if given is not None:
            reason = f"sampling.{name}: expected nothing for {self.name}, which has one transformer, got {given:g}"
            raise ClipError("unsupported", reason)
        return None

    def window_flop(
        self,
        num_frames: int,
        size: Size,
        sampling: ResolvedSampling,
        *,
        guided: bool = True,
    ) -> float:
        """Count FLOP of one window of `num_frames` (4n+1) frames at `size`: the sum of `window_parts`."""
        return sum(self.window_parts(num_frames, size, sampling, guided=guided))

    def window_parts(
        self,
        num_frames: int,
        size: Size,
        sampling: ResolvedSampling,
        *,
        guided: bool = True,
    ) -> tuple[float, float]:
        """Count FLOP of the transformer and of the VAE for one window without references, of one encoding.

        Raises:
            ValueError: the frame count is not 4n+1, or a side is not a multiple of 16.
        """
        return self.transformer_flop(num_frames, size, sampling, guided=guided), self.vae_flop(num_frames, size)

    def transformer_flop(
        self,
        num_frames: int,
        size: Size,
        sampling: ResolvedSampling,
        *,
        num_references: int = 0,
        guided: bool = True,
    ) -> float:
        """Count FLOP of the transformer for one window of `num_frames` (4n+1) frames at `size`.

        `guided` False: conditional and unconditional text are equal, so that each step is one forward.

        Raises:
            ValueError: the frame count is not 4n+1, or a side is not a multiple of 16.
        """
        forwards = sampling.num_inference_steps + (len(sampling.guided_steps) if guided else 0)
        return forwards * self.architecture.forward_flop(token_count(num_frames, size, num_references))

    def vae_flop(self, num_frames: int, size: Size, encodes: int = 1) -> float:
        """Count FLOP of the VAE for one window.

        `encodes` is 2 where known pixels and pixels under the mask both say something.
        """
        return self.architecture.vae_flop(num_frames * size.width * size.height, encodes)


_1_3B = ModelProfile(
    name=VACE_1_3B,
    architecture=Architecture(num_layers=30, num_vace_layers=15, dim=1536, ffn_dim=8960, text_dim=4096),
    max_tokens=token_count(81, Size(832, 480)),
    max_frames=81,
    overlap_frames=16,
    min_side=256,
    num_inference_steps=50,
    guidance_scale=5.0,
    flow_shift=3.0,
)
_14B = replace(
    _1_3B,
    name=VACE_14B,
    architecture=Architecture(num_layers=40, num_vace_layers=8, dim=5120, ffn_dim=13824, text_dim=4096),
    max_tokens=token_count(81, Size(1280, 720)),
    flow_shift=5.0,
)
_SMALL = replace(
    _1_3B,
    name=TINY,
    max_tokens=token_count(33, Size(512, 512)),
    max_frames=33,
    overlap_frames=8,
    min_side=64,
    num_inference_steps=1,
    guidance_scale=1.0,
    bridging=Bridging(px=24, levels=25.0),  # its own fills are off by so much; see its card
    widest_hole_px=64,  # it leaves the middle of wider holes gray
)
_BY_LAYERS = ((40, _14B), (30, _1_3B), (0, _SMALL))
"""The profile of a model, by its least number of layers."""

_BY_ID = (("14b", _14B), ("1.3b", _1_3B))
"""The profile of a hub id, by a part of its name."""


def is_directory(ref: str) -> bool:
    """Tell whether `ref` names a local directory rather than the embedded model or a hub id."""
    return ref != TINY and Path(ref).is_dir()


def model_files(ref: str) -> Traversable:
    """Return the directory of the embedded model, or the local directory `ref`."""
    return files("vace_batch") / "vace" / TINY if ref == TINY else Path(ref)


def profile(ref: str) -> ModelProfile:
    """Return the profile of "tiny", of a directory in the diffusers layout (local or in a store) or of a hub id.

    Of a directory only model_index.json, transformer/config.json and vae/config.json are read; of a hub id the same
    where they are in the local cache, else its name says what it is.

    Raises:
        UsageError: there is no such model, it is not a VACE model, or nothing is known of this hub id.
    """
    if ref == TINY or is_directory(ref):
        root = model_files(ref)
        return _from_directory(ref, lambda name: root.joinpath(*name.split("/")).read_text(encoding="utf-8"))
    place = weights.hub_place(ref)
    if place is None and weights.is_store(ref):
        return _from_directory(ref, lambda name: weights.read_text(ref, name))
    if place is None or place.file:
        raise UsageError(f"model: expected {TINY}, a directory in the diffusers layout or a hub id, got {ref!r}")
    with suppress(FileNotFoundError):
        weights.read_text(ref, "transformer/config.json")
        return _from_directory(ref, lambda name: weights.read_text(ref, name))
    return _by_id(ref)


def _by_id(ref: str) -> ModelProfile:
    """Return the profile that a hub id names by its size.

    Raises:
        UsageError: nothing is known of this hub id.
    """
    for size, known in _BY_ID:
        if "vace" in ref.lower() and size in ref.lower():
            return replace(known, name=ref)
    raise UsageError(
        f"model: unknown model {ref!r}: neither a directory nor a hub id like {VACE_1_3B}. "
        "Download it and give its directory"
    )


def revision(ref: str) -> str:
    """Identify the weights: a hub's commit, a digest of a store's listing, or of local configuration and weights.

    Large files are sampled (64 blocks of 1 MiB, evenly spaced, and the size), so that 14B takes seconds, not minutes.

    Raises:
        UsageError: there is no such model, or the hub cannot be asked and has not been asked before.
    """
    if ref != TINY and not is_directory(ref):
        profile(ref)
        return weights.folder_revision(ref)
    digest = hashlib.blake2b(digest_size=16)
    for name, file in sorted(_weight_files(model_files(ref)), key=lambda item: item[0]):
        digest.update(name.encode() + b"\0")
        with file.open("rb") as stream:
            for block in weights.sampled_blocks(stream):
                digest.update(block)
    return digest.hexdigest()


def _weight_files(root: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in root.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _weight_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith((".json", ".safetensors", ".model")):
            yield prefix + entry.name, entry


def _from_directory(ref: str, read: Callable[[str], str]) -> ModelProfile:
    index = _read_json(ref, read, "model_index.json")
    config = _read_json(ref, read, "transformer/config.json")
    if config.get("_class_name") != "WanVACETransformer3DModel":
        raise UsageError(f"model {ref}: expected a WanVACETransformer3DModel, got {config.get('_class_name')}")
    try:
        architecture = Architecture(
            num_layers=config["num_layers"],
            num_vace_layers=len(config["vace_layers"]),
            dim=config["num_attention_heads"] * config["attention_head_dim"],
            ffn_dim=config["ffn_dim"],
            text_dim=config["text_dim"],
            vae_base_dim=_read_json(ref, read, "vae/config.json").get("base_dim", _VAE_BASE_DIM),
        )
    except KeyError as error:
        raise UsageError(f"model {ref}: transformer/config.json has no {error}") from None
    known = next(known for layers, known in _BY_LAYERS if architecture.num_layers >= layers)
    return replace(known, name=ref, architecture=architecture, boundary_ratio=_boundary_ratio(ref, index))


def _boundary_ratio(ref: str, index: dict[str, Any]) -> float | None:
    """Return the noise level below which the second of two experts works."""
    if not any(index.get("transformer_2") or ()):
        return None
    ratio = index.get("boundary_ratio")
    if not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        expected = "expected a boundary_ratio of 0..1 in model_index.json beside its transformer_2"
        raise UsageError(f"model {ref}: {expected}, got {ratio}")
    return float(ratio)


def _read_json(ref: str, read: Callable[[str], str], name: str) -> dict[str, Any]:
    try:
        value = json.loads(read(name))
    except FileNotFoundError:
        original = is_directory(ref) and any(Path(ref).glob("*.pth"))
        hint = "; it looks like an original checkpoint: `vace-batch convert` it" if original else ""
        expected = "expected a directory in the diffusers layout"
        raise UsageError(f"model {ref}: {name} is missing; {expected}{hint}") from None
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"model {ref}: {name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"model {ref}: {name}: expected an object, got {type(value).__name__}")
    return value


def _first(value: _T | None, default: _T) -> _T:
    return default if value is None else value
