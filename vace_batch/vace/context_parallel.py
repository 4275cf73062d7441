"""Share one window over several devices of a machine: each process holds the whole model and a part of the tokens.

diffusers has no plan for VACE. Ours has four entries: the tokens are split where they enter the first block of either
tower, the rotary table with them, and gathered after the last projection; hints and residuals stay split, since both
towers split alike. Attention is Ulysses' (each process has all tokens of some heads), which is exact.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import ContextParallelConfig, WanVACETransformer3DModel
from diffusers.hooks.context_parallel import apply_context_parallel, remove_context_parallel
from torch.distributed.device_mesh import init_device_mesh

from vace_batch.errors import ClipError, ClusterError, UsageError
from vace_batch.vace.private_members import VACE_PLAN, abort_group, parallel_config, set_parallel
from vace_batch.vcu.unit import VCU

HelperBody = Callable[[int, int, str, Connection, dict[str, Any]], None]
"""Runs in a helper process: its rank, the degree, the meeting file, its line to rank 0, and `arguments`."""

_GONE = "a process that shares this window's tokens is gone; the model is loaded again"
_LOOK_FOR_HELPERS_S = 0.5


class TokenSplit:
    """Splits a transformer's tokens over the processes of the group; every process calls it with equal inputs.

    Plain Ulysses needs tokens and heads that `degree` divides; diffusers' variant for any number works on CUDA alone.
    Windows of other numbers of tokens are denoised whole, by every process.

    Raises:
        UsageError: `degree` does not divide the model's heads.
    """

    def __init__(self, transformers: Sequence[WanVACETransformer3DModel], degree: int, device: torch.device) -> None:
        heads = transformers[0].config.num_attention_heads
        if heads % degree:
            raise UsageError(f"engine.devices: expected a divisor of the model's {heads} heads, got {degree}")
        self._transformers = transformers
        self._config = ContextParallelConfig(ulysses_degree=degree)
        # `enable_parallelism` of diffusers 0.42 divides by the number of accelerators and so cannot run on a CPU.
        mesh = init_device_mesh(device.type, self._config.mesh_shape, mesh_dim_names=self._config.mesh_dim_names)
        self._whole = parallel_config(self._config, device, mesh)
        self._degree = degree
        self._on = False

    def use(self, tokens: int) -> None:
        """Split windows of `tokens` tokens if the degree divides them; else compute them whole in every process."""
        wanted = tokens % self._degree == 0
        if wanted == self._on:
            return
        for transformer in self._transformers:
            set_parallel(transformer, self._whole if wanted else None)
            if wanted:
                apply_context_parallel(transformer, self._config, VACE_PLAN)
            else:
                remove_context_parallel(transformer, VACE_PLAN)
        self._on = wanted


class Helpers:
    """The helper processes of this process, which has rank 0; each holds the model on its own device.

    A call that fails here leaves the others inside of a collective, so that they are ended and the model must be loaded
    anew.
    """

    def __init__(self, degree: int, device: torch.device, body: HelperBody, arguments: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vace-batch-")
        meeting = (Path(self._folder.name) / "meeting").as_uri()
        context = mp.get_context("spawn")
        self._lines: list[Connection] = []
        self._processes = []
        for rank in range(1, degree):
            ours, theirs = context.Pipe()
            process = context.Process(target=body, args=(rank, degree, meeting, theirs, arguments), daemon=True)
            process.start()
            self._lines.append(ours)
            self._processes.append(process)
        join(0, degree, meeting, device)

    @contextlib.contextmanager
    def beside(self, vcus: Sequence[VCU]) -> Iterator[None]:
        """Let the helpers denoise the same windows while this process does.

        Raises:
            ClusterError: a helper is gone.
            torch.OutOfMemoryError: the memory of a helper's device is too small; the helpers are gone then.
        """
        if self._gone():
            self.close()
            raise ClusterError(_GONE)
        for line in self._lines:
            line.send(list(vcus))
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(ended,), daemon=True)
        watch.start()
        try:
            yield
        except ClipError:  # raised before the first exchange, by all of them alike
            raise
        except BaseException as error:
            lacking, gone = self._lacking(), self._gone()
            self.close()
            if lacking:
                raise torch.OutOfMemoryError(lacking[0]) from error
            if gone:
                raise ClusterError(_GONE) from error
            raise
        finally:
            ended.set()
            watch.join()

    def _gone(self) -> bool:
        return not all(process.is_alive() for process in self._processes)

    def _lacking(self) -> list[str]:
        """Return the out-of-memory messages that helpers sent before they ended."""
        messages = []
        for line in self._lines:
            with contextlib.suppress(EOFError, OSError):
                if line.poll():
                    messages.append(line.recv())
        return messages

    def _watch(self, ended: threading.Event) -> None:
        """Abort NCCL's group when a helper dies: NCCL waits for a dead process, gloo does not."""
        while not ended.wait(_LOOK_FOR_HELPERS_S):
            if self._gone() and dist.is_initialized() and dist.get_backend() == "nccl":
                abort_group()
                return

    @property
    def usable(self) -> bool:
        return bool(self._processes)

    def close(self) -> None:
        """End the helpers and leave the group."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes = []
        if dist.is_initialized():
            dist.destroy_process_group()
        self._folder.cleanup()


def join(rank: int, degree: int, meeting: str, device: torch.device) -> None:
    """Enter the group of `degree` processes that meet in the file `meeting`."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=degree)
