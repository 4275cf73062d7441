"""A watch over the Ray that this process is connected to: reports a lost head, a lost raylet, and machines that leave.

Facts about Ray 2.60, each seen by breaking it:

- A driver whose raylet is killed waits for ever, or Ray ends the driver after 15 s with exit code 1 and no message.
- A driver whose head (GCS) is killed is ended by Ray after 60 s with exit code 1; until then calls to the head block.
- A raylet ends itself when its dashboard agent or runtime-environment agent is killed.
- `ray.shutdown` ends in 1 to 8 s in both cases, and afterwards the same process can start another Ray.
"""

from __future__ import annotations

from vace_batch.cluster import ray_private  # isort: skip  (first: it sets Ray's environment)

import contextlib
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Collection

import ray

from vace_batch import log
from vace_batch.errors import LostError

LOOK_AT_CLUSTER_S = 1.0
LOOK_FOR_DRAINS_S = 2.0
"""A spot notice gives two minutes at the best of providers, 30 s at others."""

HEAD_PATIENCE_S = 40.0
"""Seconds without an answer of a joined cluster's head until the cluster is lost; Ray ends the driver at 60 s."""

STUCK_S = 12.0
"""Seconds after a loss until this process is ended where it is: Ray ends a driver 15 s after its raylet's death."""

CONNECT_S = 5.0

JOIN_S = 10.0
"""Seconds for a thread to leave its call to Ray."""

_LOG = log.get_logger(__name__)


class Watch:
    """Two threads: one looks for losses, the other asks the head for draining nodes, which may block for a minute.

    If the driver's thread does not close the watch within `STUCK_S` after a loss, because a call to the dead Ray
    blocks it, the watch prints the loss on standard error and ends this process with `LostError.EXIT_CODE`.
    """

    def __init__(self, *, private: bool) -> None:
        self._closed = threading.Event()
        self._private = private
        self._head = ray.get_runtime_context().gcs_address
        self._raylet = None if private else _pidfd_of_peer(ray_private.raylet_socket())
        self._answered_at = time.monotonic()
        self._warned = False
        self.loss: str | None = None
        self.draining: Collection[str] = ()
        bodies = (self._look_for_losses, self._look_for_drains)
        self._threads = [threading.Thread(target=body, name="watch over Ray", daemon=True) for body in bodies]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both threads: before `ray.shutdown`, which aborts the process while another thread is inside Ray.

        After a loss, close after `ray.shutdown`, which may block; a thread inside a call to a dead head is left alone.
        """
        self._closed.set()
        if self.loss is None:
            for thread in self._threads:
                thread.join(JOIN_S)

    def check(self) -> None:
        """Do nothing while Ray is there.

        Raises:
            LostError: the head or this machine's raylet is lost.
        """
        if self.loss is not None:
            raise LostError(self.loss)

    def _look_for_losses(self) -> None:
        while not self._closed.wait(LOOK_AT_CLUSTER_S):
            self.loss = self._private_loss() if self._private else self._joined_loss()
            if self.loss is not None:
                break
        if not self._closed.wait(STUCK_S):
            sys.stderr.write(f"error: {LostError(str(self.loss))}\n")
            sys.stderr.flush()
            os._exit(LostError.EXIT_CODE)

    def _private_loss(self) -> str | None:
        dead = ray_private.dead_processes()
        if not dead:
            return None
        return f"Ray's {' and '.join(dead)} on this machine ended while the run needed it"

    def _joined_loss(self) -> str | None:
        if self._raylet is not None and select.select([self._raylet], [], [], 0)[0]:
            return "this machine's raylet, which connects the run to the Ray cluster, has ended"
        if answers(self._head):
            self._answered_at, self._warned = time.monotonic(), False
            return None
        silent_s = time.monotonic() - self._answered_at
        if silent_s > HEAD_PATIENCE_S:
            return f"the head of the Ray cluster at {self._head} has not answered for {silent_s:.0f} s"
        if silent_s > CONNECT_S and not self._warned:
            self._warned = True
            _LOG.warning("the head of the Ray cluster at %s does not answer; waiting", self._head)
        return None

    def _look_for_drains(self) -> None:
        while not self._closed.wait(LOOK_FOR_DRAINS_S):
            # While a joined cluster's head starts again, its answer is an error; the other thread judges the head.
            with contextlib.suppress(Exception):
                self.draining = ray_private.draining_nodes()


def answers(address: str) -> bool:
    """Whether a process accepts connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return True
    except OSError:
        return False


def _pidfd_of_peer(path: str | None) -> int | None:
    """Return a file descriptor that becomes readable when the process that listens at a Unix socket has ended.

    None where the system does not tell the process: no such socket, another process namespace, or not Linux.
    """
    if path is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:
        return None
