"""Fuse LoRA files into a loaded transformer's weights, and restore the base's weights bit for bit.

A LoRA adds `weight * alpha / rank * up @ down` to a weight. Its file names weights as diffusers, Wan's own code or
kohya's trainers do, under one of several prefixes. Each name is looked up in a table of all the names that the loaded
model's own weights may have: `vace_blocks` are no special case, and what is not in the model is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vace_batch.errors import ClipError, UsageError
from vace_batch.vace import weights
from vace_batch.vace.wan_names import original_name
from vace_batch.vcu.sampling import Lora

_PREFIXES = (
    "base_model.model.", "model.", "transformer.", "diffusion_model.", "module.", "pipe.dit.", "pipe.vace.", "dit.",
    "vace.", "lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
_KEY = re.compile(
    r"(?P<target>.+)\.(?:(?P<down>lora_A(?:\.\w+)?\.weight|lora_down\.weight|lora\.down\.weight)"
    r"|(?P<up>lora_B(?:\.\w+)?\.weight|lora_up\.weight|lora\.up\.weight)"
    r"|(?P<alpha>alpha)|(?P<diff>diff)|(?P<modulation>diff_m)|(?P<bias>diff_b|lora_B(?:\.\w+)?\.bias))"
)
_PEFT = "lora_adapter_metadata"


@dataclass(slots=True)
class _Change:
    """The tensors and keys of one LoRA file for one weight; `scale` is alpha / rank."""

    parts: dict[str, torch.Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    scale: float = 1.0


class LoraSwitch:
    """Fuses LoRAs into one transformer and takes them out again. Not for several threads.

    The weights that they touch are kept on the CPU as they were while LoRAs are in them, so that taking LoRAs out gives
    the base back bit for bit, and one set after another never adds up rounding.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self._parameters = dict(transformer.named_parameters())
        self._aliases = _aliases(self._parameters)
        self._originals: dict[str, torch.Tensor] = {}
        self._fused: tuple[tuple[str, float, str], ...] = ()

    def use(self, loras: Sequence[Lora]) -> None:
        """Fuse exactly `loras` into the weights; do nothing when they are fused already.

        Raises:
            ClipError: `lora_unusable`: a file is not there, is no LoRA, or does not fit the model. The base is in then.
        """
        wanted = tuple(lora.identity for lora in loras)
        if wanted == self._fused:
            return
        self.restore()
        changes = [(lora.weight, self._read(lora)) for lora in loras]
        try:
            with torch.no_grad():
                for name in sorted({name for _, found in changes for name in found}):
                    self._fuse(name, [(weight, found[name]) for weight, found in changes if name in found])
        except BaseException:
            self.restore()
            raise
        self._fused = wanted

    def restore(self) -> None:
        """Put the base's own weights back."""
        with torch.no_grad():
            for name, original in self._originals.items():
                self._parameters[name].copy_(original)
        self._originals, self._fused = {}, ()

    def _fuse(self, name: str, changes: Sequence[tuple[float, _Change]]) -> None:
        parameter = self._parameters[name]
        self._originals[name] = parameter.detach().to("cpu", copy=True)
        total = parameter.detach().float()
        for weight, change in changes:
            total = total + weight * _delta(change, parameter)
        parameter.copy_(total)

    def _read(self, lora: Lora) -> dict[str, _Change]:
        """Read a LoRA file into changes by parameter, and check each against the model."""
        tensors, scales = _open(lora)
        changes: dict[str, _Change] = {}
        for key in sorted(tensors):
            for name, part in self._target(lora.uri, key):
                change = changes.setdefault(name, _Change())
                change.parts[part], change.keys[part] = tensors[key], key
        for name, change in changes.items():
            self._check(lora.uri, name, change)
            if "down" in change.parts:
                change.scale = scales.of(change)
        if not changes:
            raise _unusable(lora.uri, "no LoRA in it: it holds no lora_A/lora_B, lora_down/lora_up or diff keys")
        return changes

    def _target(self, uri: str, key: str) -> Iterator[tuple[str, str]]:
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unusable(uri, f"key {key}: not of a plain LoRA (lora_A/lora_B, lora_down/lora_up, alpha, diff)")
        part, target = str(match.lastgroup), match["target"]
        if part == "modulation":  # lightx2v's, of the table that each block adds to the time's embedding
            part, target = "diff", target + ".modulation"
        while (found := self._aliases.get(target.replace(".", "_"))) is None:
            shorter = next((target.removeprefix(prefix) for prefix in _PREFIXES if target.startswith(prefix)), None)
            if shorter is None:
                raise _unusable(uri, f"key {key}: the model has no such weight; is it for another model?")
            target = shorter
        if part == "bias":
            bias = found.removesuffix(".weight") + ".bias"
            if bias not in self._parameters:
                raise _unusable(uri, f"key {key}: the model has no bias there")
            yield bias, "diff"
        else:
            yield found, part

    def _check(self, uri: str, name: str, change: _Change) -> None:
        shape, parts = tuple(self._parameters[name].shape), change.parts
        if "diff" in parts and parts["diff"].shape != shape:
            raise _unusable(uri, f"key {change.keys['diff']}: expected {shape}, got {tuple(parts['diff'].shape)}")
        if "down" not in parts and "up" not in parts:
            if "diff" not in parts:
                raise _unusable(uri, f"key {change.keys['alpha']}: without its lora_A and lora_B")
            return
        _check_pair(uri, shape, change)


def _open(lora: Lora) -> tuple[dict[str, torch.Tensor], _Scales]:
    """Read a LoRA file: its tensors by key, and the scales of its weights."""
    try:
        with (
            weights.local_file(lora.uri, lora.revision) as path,
            safe_open(path, framework="pt") as file,
        ):
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, _Scales(file.metadata() or {})
    except UsageError as error:
        raise _unusable(lora.uri, str(error)) from error
    except SafetensorError as error:
        raise _unusable(lora.uri, f"not a safetensors file ({error}); pickles are not read") from error
    except OSError as error:
        raise ClipError("lora_unusable", f"LoRA {lora.uri}: cannot be read: {error}", retryable=True) from error


def _check_pair(uri: str, shape: tuple[int, ...], change: _Change) -> None:
    """Check that both factors of a weight's change are there, and fit the weight's shape."""
    parts = change.parts
    for part, other in (("down", "up"), ("up", "down")):
        if part not in parts:
            raise _unusable(uri, f"key {change.keys[other]}: without the other half of its pair")
    rank = parts["down"].shape[0]
    wanted = {"down": (rank, math.prod(shape[1:])), "up": (shape[0], rank)}
    for part, expected in wanted.items():
        got = tuple(parts[part].flatten(1).shape) if parts[part].ndim > 1 else tuple(parts[part].shape)
        if got != expected or len(shape) < 2:
            raise _unusable(uri, f"key {change.keys[part]}: expected {expected} for a weight of {shape}, got {got}")


def use_loras(switches: Sequence[LoraSwitch], loras: Sequence[Lora]) -> None:
    """Fuse exactly `loras` into a model's experts, the expert for high noise first.

    Raises:
        ClipError: `lora_unusable`: as `LoraSwitch.use`, or a LoRA names an expert of a model with one transformer.
    """
    if len(switches) == 1 and (named := [lora for lora in loras if lora.expert != "both"]):
        raise _unusable(named[0].uri, f"expert: expected both for a model of one transformer, got {named[0].expert}")
    for switch, name in zip(switches, ("high", "low"), strict=False):
        switch.use([lora for lora in loras if lora.expert in ("both", name)])


class _Scales:
    """The scale alpha / rank of each weight: by an alpha in the file, by PEFT's metadata, else 1."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        try:
            peft = dict(json.loads(metadata.get(_PEFT, "{}")))
        except (ValueError, TypeError):
            peft = {}
        self._settings: dict[str, Any] = {key.removeprefix("transformer."): value for key, value in peft.items()}

    def of(self, change: _Change) -> float:
        rank = int(change.parts["down"].shape[0])
        if "alpha" in change.parts:
            return float(change.parts["alpha"].float()) / rank
        target = change.keys["down"]
        patterns = self._settings.get("alpha_pattern") or {}
        alpha = next((value for name, value in patterns.items() if f".{name}." in f".{target}"), None)
        alpha = self._settings.get("lora_alpha", rank) if alpha is None else alpha
        divisor = math.sqrt(rank) if self._settings.get("use_rslora") else rank
        return float(alpha) / divisor


def _delta(change: _Change, parameter: torch.Tensor) -> torch.Tensor:
    parts = {name: part.to(parameter.device, torch.float32) for name, part in change.parts.items()}
    delta = parts["diff"] if "diff" in parts else torch.zeros((), device=parameter.device)
    if "down" in parts:
        product = parts["up"].flatten(1) @ parts["down"].flatten(1)
        delta = delta + change.scale * product.reshape(parameter.shape)
    return delta


def _aliases(parameters: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Map each name that a LoRA may give a module to its parameter, dots as underscores: trainers mix both."""
    table: dict[str, str] = {}
    for name in parameters:
        if name.endswith(".bias"):
            continue
        for alias in (name, original_name(name)):
            table[alias.removesuffix(".weight").replace(".", "_")] = name
    return table


def _unusable(uri: str, reason: str) -> ClipError:
    return ClipError("lora_unusable", f"LoRA {uri}: {reason}")
