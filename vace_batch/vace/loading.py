"""Open an engine: load a model, share prompt embeddings, and start the processes that share its windows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from vace_batch.errors import ClipError
from vace_batch.options import EngineSettings
from vace_batch.vace import profiles
from vace_batch.vace.acceleration import use_deterministic_kernels
from vace_batch.vace.context_parallel import Helpers, TokenSplit, join
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import dtype_of, load, load_text, place_of
from vace_batch.vace.prompts import PromptEncoder, PromptStore


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperPlace:
    """The rank of a helper process in its group, above 0, and the helper's device."""

    rank: int
    device: torch.device


def open_engine(
    ref: str,
    *,
    revision: str | None = None,
    settings: EngineSettings | None = None,
    prompts_uri: str | None = None,
    texts: Sequence[str] = (),
    helper: HelperPlace | None = None,
) -> VaceEngine:
    """Load model `ref` and make its engine.

    Prompt embeddings are shared in `prompts_uri`. Embeddings of `texts` that are not stored are made first, so that the
    text encoder and the transformer are never in memory together. With `settings.devices` above 1, helper processes
    start and share the windows; a helper gives its own place, after it has joined the group.

    Raises:
        UsageError: the model cannot be loaded, or the settings do not work here.
    """
    settings = settings or EngineSettings()
    if settings.deterministic:
        use_deterministic_kernels()
    device = place_of(None if helper is None else helper.device)
    dtype = dtype_of(device, settings.dtype)
    revision = revision or profiles.revision(ref)
    kernels = " deterministic" if settings.deterministic else ""
    prompts = PromptEncoder(
        partial(load_text, ref, revision, device=device, dtype=dtype),
        device,
        dtype,
        store=PromptStore(prompts_uri, f"{revision} {dtype}{kernels}") if prompts_uri else None,
        keep=settings.text_encoder == "keep",
    )
    prompts.prepare(texts)
    helpers = split = None
    if settings.devices > 1 and helper is None:
        shared = {"ref": ref, "revision": revision, "settings": settings, "prompts_uri": prompts_uri, "texts": texts}
        helpers = Helpers(settings.devices, device, _help, shared)
    model = load(ref, device=device, dtype=dtype, text_encoder=False, revision=revision)
    if settings.devices > 1:
        split = TokenSplit(model.experts, settings.devices, device)
    return VaceEngine(model, settings, prompts=prompts, split=split, helpers=helpers)


def _help(rank: int, degree: int, meeting: str, line: Connection, arguments: dict[str, Any]) -> None:
    """Run a helper process: load the model and denoise rank 0's windows until rank 0 hangs up or memory is short."""
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    join(rank, degree, meeting, device)
    engine = open_engine(**arguments, helper=HelperPlace(rank=rank, device=device))
    try:
        while True:
            with contextlib.suppress(ClipError):
                engine.denoise(line.recv())
    except (torch.OutOfMemoryError, MemoryError) as error:
        line.send(str(error))
    except EOFError:
        return
