"""The connection of this process to Ray: join a cluster, or start a Ray of its own on this machine."""

from __future__ import annotations

from vace_batch.cluster.ray_private import keep_sigterm_handler, on_loopback  # isort: skip  (first: Ray's environment)

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from vace_batch import log
from vace_batch.cluster.waiting import waiting_for
from vace_batch.cluster.watch import answers
from vace_batch.errors import ClusterError, LostError

START_TRIES = 5
"""Ray gives its own start 30 s, which is too short on a busy machine."""

ADDRESS_PATIENCE_S = 30.0
"""Seconds for a cluster's head to accept a connection."""

JOIN_PATIENCE_S = 50.0
"""Seconds for Ray to join a cluster whose head accepts connections; Ray ends the process at 60 s."""

_LOG = log.get_logger(__name__)


def join(address: str) -> None:
    """Connect this process to the Ray cluster at `address`.

    Raises:
        LostError: no head answers at the address.
        ClusterError: the head refuses this process.
    """
    begin = time.monotonic()
    while ":" in address and "://" not in address and not answers(address):
        waited_s = time.monotonic() - begin
        if waited_s > ADDRESS_PATIENCE_S:
            raise LostError(f"no Ray cluster answers at {address} (RAY_ADDRESS); waited {waited_s:.0f} s")
        _LOG.warning("waiting for the Ray cluster at %s, for %.0f s now", address, waited_s)
        time.sleep(5.0)
    with _at_most(JOIN_PATIENCE_S, f"the process at {address} (RAY_ADDRESS) does not answer as a Ray cluster does"):
        try:
            with keep_sigterm_handler():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises many classes, some of them just `Exception`
            ray.shutdown()
            kind = (
                LostError if isinstance(error, ConnectionError) or "Failed to connect" in str(error) else ClusterError
            )
            raise kind(f"cannot join the Ray cluster at {address}: {error}") from error


def start(**settings: Any) -> None:
    """Start a Ray on this machine with these settings of `ray.init`, and connect this process to it.

    Raises:
        ClusterError: Ray cannot be started.
    """
    for remaining in reversed(range(START_TRIES)):
        try:
            with keep_sigterm_handler(), on_loopback(), waiting_for("Ray to start on this machine"):
                ray.init(address="local", log_to_driver=False, logging_level="ERROR", **settings)
            return
        except Exception as error:  # where a node does not start in time Ray raises just that
            ray.shutdown()
            if not remaining or "timed out during startup" not in str(error):
                raise ClusterError(f"cannot start Ray on this machine: {error}") from error


@contextmanager
def _at_most(seconds: float, message: str) -> Iterator[None]:
    """End this process with a message unless the context ends in time: Ray would end it without one."""

    def end() -> None:
        sys.stderr.write(f"error: {LostError(message)}\n")
        sys.stderr.flush()
        os._exit(LostError.EXIT_CODE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
