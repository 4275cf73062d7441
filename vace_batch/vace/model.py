"""Load a VACE model: the embedded model, or a directory in the diffusers layout (local, of a hub, in a store)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACETransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from diffusers.utils import logging as diffusers_log
from safetensors import SafetensorError
from torch import nn

from vace_batch.errors import UsageError
from vace_batch.vace import profiles, step_cache, weights
from vace_batch.vace.private_members import replace_convolution
from vace_batch.vace.profiles import TINY, ModelProfile, is_directory, model_files

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel

_PARTS = ("transformer", "transformer_2", "vae", "scheduler")
_TEXT_PARTS = ("tokenizer", "text_encoder")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VaceModel:
    """A loaded model. The VAE keeps state on itself while it works: one engine a model, one thread an engine.

    `tokenizer` and `text_encoder` are None where the model was loaded without them. `revision` identifies the weights
    in every result. Wan 2.2 has two experts: `transformer` for high noise, then `transformer_2`, None in Wan 2.1.
    """

    ref: str
    revision: str
    profile: ModelProfile
    transformer: WanVACETransformer3DModel
    vae: AutoencoderKLWan
    tokenizer: Any
    text_encoder: UMT5EncoderModel | None
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    transformer_2: WanVACETransformer3DModel | None = None

    @property
    def experts(self) -> tuple[WanVACETransformer3DModel, ...]:
        """One transformer, or the two of Wan 2.2."""
        return (self.transformer,) if self.transformer_2 is None else (self.transformer, self.transformer_2)


def load(
    ref: str,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    text_encoder: bool = True,
    revision: str | None = None,
) -> VaceModel:
    """Load `ref`: "tiny", a local directory, a hub id or a store's folder (fetched once a node); safetensors only.

    `device` is CUDA where there is one, unless given. `dtype` is the transformer's and the text encoder's: float32 on a
    CPU, bfloat16 elsewhere unless given. The VAE is always float32. `revision` is the `profiles.revision` of the
    time of planning: a hub id is taken at this commit, any other model must still have it. Threads are the caller's to
    set (`torch.set_num_threads`).

    Raises:
        UsageError: there is no such model, it is incomplete, not in safetensors, of another revision, or cannot be
            downloaded.
    """
    profile = profiles.profile(ref)
    loaded_revision = _revision(ref, revision)
    place = place_of(device)
    dtype = dtype or dtype_of(place)
    diffusers_log.disable_progress_bar()
    parts = (*_PARTS, *_TEXT_PARTS) if text_encoder else _PARTS
    try:
        with _local_folder(ref, loaded_revision, parts) as path:
            vae = _load(AutoencoderKLWan, path, "vae", place, torch_dtype=torch.float32)
            if place.type == "cpu" and torch.backends.mkldnn.is_available():
                _use_fast_kernels(vae)
            experts = _load_experts(path, profile, place, dtype)
            scheduler = UniPCMultistepScheduler.load_config(path, subfolder="scheduler")
            tokenizer, encoder = _load_text_parts(path, place, dtype) if text_encoder else (None, None)
            return VaceModel(
                ref=ref,
                revision=loaded_revision,
                profile=profile,
                transformer=experts[0],
                transformer_2=experts[1] if len(experts) > 1 else None,
                vae=vae,
                tokenizer=tokenizer,
                text_encoder=encoder,
                scheduler_config=scheduler,
                device=place,
                dtype=dtype,
            )
    except (OSError, SafetensorError) as error:
        raise UsageError(f"model {ref}: cannot be loaded: {error}") from error


def _load_experts(
    path: str, profile: ModelProfile, place: torch.device, dtype: torch.dtype
) -> list[WanVACETransformer3DModel]:
    """Load the transformer, or both transformers of a model of two experts, each ready to take a step cache."""
    names = ("transformer",) if profile.boundary_ratio is None else ("transformer", "transformer_2")
    experts = [_load(WanVACETransformer3DModel, path, name, place, torch_dtype=dtype) for name in names]
    for expert in experts:
        step_cache.install(expert)
    return experts


def place_of(device: str | torch.device | None) -> torch.device:
    """Return `device`; without one, CUDA if it is available, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def dtype_of(device: torch.device, name: str = "auto") -> torch.dtype:
    """Return the dtype of that name; "auto" is float32 on a CPU and bfloat16 elsewhere."""
    automatic = "float32" if device.type == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, automatic if name == "auto" else name)
    return dtype


def load_text(ref: str, revision: str, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, UMT5EncoderModel]:
    """Load only the tokenizer and the text encoder of `ref`.

    Raises:
        UsageError: as `load`.
    """
    try:
        with _local_folder(ref, _revision(ref, revision), _TEXT_PARTS) as path:
            return _load_text_parts(path, device, dtype)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"model {ref}: its text encoder cannot be loaded: {error}") from error


def _load_text_parts(path: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, UMT5EncoderModel]:
    """Load the tokenizer and the text encoder from a local directory."""
    # here for start-up time: an actor that finds all prompts stored needs neither
    from transformers import AutoTokenizer, UMT5EncoderModel
    from transformers.utils import logging as transformers_log

    transformers_log.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(path, subfolder="tokenizer")
    return tokenizer, _load(UMT5EncoderModel, path, "text_encoder", device, dtype=dtype)


def _revision(ref: str, planned: str | None) -> str:
    if planned is not None and ref != TINY and not is_directory(ref):
        return planned
    revision = profiles.revision(ref)
    if planned not in (None, revision):
        raise UsageError(
            f"model {ref}: planned with revision {planned}, but this node has {revision}; give every node the same"
        )
    return revision


@contextmanager
def _local_folder(ref: str, revision: str, parts: Sequence[str]) -> Iterator[str]:
    """Yield the local directory to load from."""
    if is_directory(ref):
        yield ref
    elif ref == TINY:
        with as_file(model_files(TINY)) as folder:
            yield str(folder)
    else:
        with weights.local_folder(ref, revision, parts) as folder:
            yield str(folder)


def _load(kind: Any, path: str, component: str, device: torch.device, **dtype: torch.dtype) -> Any:
    """Load one component; refuse missing weights, which `from_pretrained` fills with random numbers and a warning."""
    module, report = kind.from_pretrained(
        path, subfolder=component, use_safetensors=True, output_loading_info=True, local_files_only=True, **dtype
    )
    missing = sorted(str(key) for key in [*report["missing_keys"], *report["mismatched_keys"]])
    if missing:
        raise UsageError(f"model {path}: {component} lacks {len(missing)} weights: {', '.join(missing[:3])} ...")
    return module.to(device).eval().requires_grad_(False)


def _use_fast_kernels(vae: nn.Module) -> None:
    """Replace the VAE's slow CPU kernels; results are equal to rounding (6e-7).

    For one float32 item on one thread it gives 3-D convolutions to its plain kernel, not to oneDNN, and its vector norm
    over channels is not vectorised. Both together: 4 times the speed in the embedded VAE.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            replace_convolution(module, _convolve)
        elif isinstance(module, WanRMS_norm):
            module.forward = MethodType(_normalise, module)


def _convolve(self: nn.Conv3d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    output: torch.Tensor = torch.ops.aten.mkldnn_convolution(
        x, weight, bias, self.padding, self.stride, self.dilation, self.groups
    )
    return output


def _normalise(self: WanRMS_norm, x: torch.Tensor) -> torch.Tensor:
    length = x.square().sum(dim=1 if self.channel_first else -1, keepdim=True).sqrt_().clamp_min_(1e-12)
    output: torch.Tensor = (x / length).mul_(self.scale).mul_(self.gamma).add_(self.bias)
    return output
