"""The body of an actor: resolves functions by name, runs setup once, then batches; exceptions become replies."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from vace_batch.cluster.calls import Reply
from vace_batch.cluster.policy import Trouble
from vace_batch.cluster.units import Call, Outcome
from vace_batch.errors import ClipError, LostError, is_out_of_memory
from vace_batch.imports import quick_imports
from vace_batch.storage.retry import is_disk_full
from vace_batch.storage.written import written_bytes

INPUT_LIMIT_S = 600.0
"""After this time without an answer, the payload of an input counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCall:
    """One unit of a call on its way to an actor.

    The actor itself fetches the references in `inputs`, one by one, not Ray: so a lost payload names its producer
    instead of failing the whole call.
    """

    unit_id: str
    payload: object
    inputs: tuple[Any, ...]
    attempt: int
    last_code: str | None


@functools.cache
def resolve(name: str) -> Callable[..., Any]:
    """Import the function named `'package.module:function'`.

    Raises:
        ImportError: no such module.
        AttributeError: no such function in it.
    """
    module, _, attribute = name.partition(":")
    with quick_imports():
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


class Worker:
    """One actor. Its calls run one after the other; the `Finish` of one may run beside the next."""

    def __init__(self) -> None:
        self._state: object = None
        self._device = threading.Lock()
        self._begun = threading.Semaphore(0)
        self._finishing = threading.Lock()
        self._meter = threading.Lock()
        self._cpu_s = 0.0
        self._written = 0

    def place(self) -> tuple[str, int]:
        """Return the node id and the process id; resolves as soon as the process runs."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def set_up(self, setup: str | None, setup_args: Mapping[str, object]) -> str | None:
        """Run the setup and keep the state. Returns the traceback if the setup raised, else None."""
        try:
            self._state = resolve(setup)(**setup_args) if setup else None
        except Exception as error:
            return f"{_sentence(error)}\n{traceback.format_exc()}"
        self._taken()
        return None

    def _taken(self) -> tuple[float, int]:
        """Return the processor time and the bytes written by this process since the last time it was asked.

        Of two calls that run beside each other, the one that ends first gets the time and bytes of both.
        """
        with self._meter:
            cpu_s = time.process_time()
            written = written_bytes()
            taken = cpu_s - self._cpu_s, written - self._written
            self._cpu_s = cpu_s
            self._written = written
            return taken

    def begin(self) -> None:
        """Take the device for the next `work`. Sent before each; its return tells the driver that the call starts."""
        self._device.acquire()
        self._begun.release()

    def work(self, fn: str, unit_calls: Sequence[UnitCall]) -> tuple[object, ...]:
        """Run one batch after its `begin`; Ray starts the two on threads of their own, in any order.

        Returns: the replies together with whether this actor is broken, then one payload a unit.
        """
        self._begun.acquire()
        with contextlib.ExitStack() as finishing, contextlib.ExitStack() as device:
            device.callback(self._device.release)

            def leave_device() -> None:
                finishing.enter_context(self._finishing)
                device.close()

            return self._work(fn, unit_calls, leave_device)

    def _work(self, fn: str, unit_calls: Sequence[UnitCall], leave_device: Callable[[], None]) -> tuple[object, ...]:
        begin = time.perf_counter()
        calls: list[Call] = []
        replies: list[Reply] = []
        for unit_call in unit_calls:
            values, lost = _fetch(unit_call.inputs)
            replies.append(Reply(lost_inputs=lost))
            if not lost:
                calls.append(
                    Call(
                        unit_id=unit_call.unit_id,
                        payload=unit_call.payload,
                        inputs=values,
                        attempt=unit_call.attempt,
                        last_code=unit_call.last_code,
                    )
                )
        outcomes, trouble = self._outcomes(fn, calls, leave_device)
        seconds = (time.perf_counter() - begin) / len(unit_calls)
        cpu_s, num_bytes = self._taken()
        remaining = iter(outcomes)
        payloads: list[object] = []
        for position, reply in enumerate(replies):
            payload = None
            if not reply.lost_inputs:
                outcome = next(remaining, None)
                replies[position] = replace(
                    _reply(outcome, trouble),
                    seconds=seconds,
                    cpu_s=cpu_s / len(unit_calls),
                    num_bytes=round(num_bytes / len(unit_calls)),
                )
                payload = None if outcome is None else outcome.payload
            payloads.append(payload)
        broken = trouble is not None and _device_is_dead()
        return ((tuple(replies), broken), *payloads)

    def _outcomes(
        self, fn: str, calls: list[Call], leave_device: Callable[[], None]
    ) -> tuple[list[Outcome], Trouble | None]:
        """Call the worker function. Any exception becomes a failure of the units, here and nowhere else."""
        if not calls:
            return [], None
        try:
            answer = resolve(fn)(self._state, calls)
            if callable(answer):
                leave_device()
                answer = answer()
            outcomes = list(answer)
            if len(outcomes) != len(calls):
                raise TypeError(f"{fn} returned {len(outcomes)} outcomes for {len(calls)} calls")
            return outcomes, None
        except Exception as error:
            trouble = trouble_of(error)
        if trouble.code == "out_of_memory":
            _free_memory()
        return [], trouble


def trouble_of(error: Exception) -> Trouble:
    """Translate an exception of a worker function into the trouble of its units."""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, ClipError):
        return Trouble(code=error.code, reason=error.reason, retryable=error.retryable, traceback=text)
    if isinstance(error, LostError):
        return Trouble(code="store_lost", reason=error.reason, traceback=text)
    if is_out_of_memory(error):
        return Trouble(code="out_of_memory", reason=f"not enough memory: {_sentence(error)}", traceback=text)
    if is_disk_full(error):
        return Trouble(code="storage_full", reason=f"no space left: {error}", traceback=text)
    return Trouble(code="internal_error", reason=f"unexpected {_sentence(error)}", traceback=text)


def _reply(outcome: Outcome | None, trouble: Trouble | None) -> Reply:
    if outcome is None:
        return Reply(trouble=trouble, shared=True)
    if outcome.error is not None:
        return Reply(trouble=trouble_of(outcome.error))
    return Reply(meta=outcome.meta, has_payload=outcome.payload is not None)


def _fetch(references: Sequence[ray.ObjectRef[object]]) -> tuple[tuple[object, ...], tuple[int, ...]]:
    """Fetch the payloads behind references. Returns the payloads, and the positions of lost ones."""
    values: list[object] = []
    lost: list[int] = []
    for position, reference in enumerate(references):
        try:
            values.append(ray.get(reference, timeout=INPUT_LIMIT_S))
        except ray.exceptions.RayError:
            lost.append(position)
    return tuple(values), tuple(lost)


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _device_is_dead() -> bool:
    """Whether the CUDA context is gone, as after a device-side assertion: every later call would fail too."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
