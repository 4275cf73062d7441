"""Set up torch and a loaded transformer: deterministic kernels, attention, fp8 storage, compiled blocks, offload."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from diffusers import WanVACETransformer3DModel
from diffusers.utils import logging as diffusers_log

from vace_batch.errors import UsageError
from vace_batch.options import EngineSettings
from vace_batch.vace.model import VaceModel
from vace_batch.vace.private_members import allow_recompiles

MAX_COMPILED_SHAPES = 6

_GRAPHS_A_SHAPE = 4
"""Plain blocks, VACE's first and its others, and one to spare; torch's own limit of 8 is hit at the third."""


def use_deterministic_kernels() -> None:
    """Make torch use deterministic kernels alone, and one CPU thread, in this process from now on.

    Must come before the first matrix product on a GPU, at which cuBLAS reads its workspace from the environment. On a
    CPU the number of threads decides the order in which products are summed up.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)


def tune(model: VaceModel, settings: EngineSettings) -> None:
    """Apply the settings to the loaded transformer.

    Raises:
        UsageError: the attention back end is not known or not installed here, or two settings exclude each other.
    """
    if settings.compile and settings.offload != "none":
        raise UsageError("engine.compile: expected false with engine.offload=group: compiled blocks skip its hooks")
    if settings.compile and settings.deterministic:
        raise UsageError("engine.compile: expected false with --deterministic: the first shapes that come are compiled")
    for transformer in model.experts:
        _choose_attention(transformer, settings.attention)
        if settings.storage == "fp8":
            transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=model.dtype)
        if settings.compile:
            allow_recompiles(MAX_COMPILED_SHAPES * _GRAPHS_A_SHAPE)
            transformer.compile_repeated_blocks(dynamic=False)
    if settings.offload == "group":
        offload(model)


def _choose_attention(transformer: WanVACETransformer3DModel, name: str) -> None:
    """Set the attention back end, even the default: diffusers keeps the last choice for every model of the process."""
    verbosity = diffusers_log.get_verbosity()
    diffusers_log.set_verbosity_error()  # it warns each time that this may change in another version
    try:
        transformer.set_attention_backend(name)
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"engine.attention={name}: {error}") from error
    finally:
        diffusers_log.set_verbosity(verbosity)


def offload(model: VaceModel) -> None:
    """Keep the blocks in host memory and move one at a time to the device; a GPU prefetches the next block."""
    for transformer in model.experts:
        transformer.enable_group_offload(
            onload_device=model.device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=model.device.type == "cuda",
        )


class CompiledShapes:
    """Compiles the first MAX_COMPILED_SHAPES shapes and runs later ones uncompiled: each costs minutes and memory."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._seen: set[str] = set()

    @contextlib.contextmanager
    def of(self, shape: str) -> Iterator[None]:
        if not self._enabled:
            yield
            return
        if len(self._seen) < MAX_COMPILED_SHAPES:
            self._seen.add(shape)
        with torch.compiler.set_stance("default" if shape in self._seen else "force_eager"):
            yield
