"""Ray's private members that the cluster needs, gathered here because an upgrade of Ray may remove them.

Import this module before Ray: it sets Ray's environment variables, which Ray reads once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

from vace_batch.log import quiet_environment  # isort: skip

quiet_environment(prefix="RAY_")

from ray._private import ray_constants, utils, worker  # noqa: E402
from ray._private.state import state  # noqa: E402

RAY_MEMBERS = (
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
    "ray._private.state:state.get_draining_nodes",
    "ray._private.state:state.get_max_resources_from_cluster_config",
    "ray._private.utils:set_sigterm_handler",
    "ray._private.node:Node.dead_processes",
    "ray._private.node:Node.raylet_socket_name",
)
"""Every private member used below; `tests/cluster/test_ray_private.py` looks for each by name."""


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Make a Ray that is started inside this context listen at 127.0.0.1 only, as it does on Windows and macOS.

    On Linux Ray replaces a given loopback address by the machine's own address, and then its services listen at every
    address: whoever reaches them can run code.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def draining_nodes() -> Collection[str]:
    """Return the ids of the nodes that Ray is draining."""
    nodes: Collection[str] = state.get_draining_nodes()
    return nodes


def most_gpus() -> int:
    """Return the most GPUs that the cluster's autoscaler may start: 0 without an autoscaler, `sys.maxsize` without a
    bound."""
    return int((state.get_max_resources_from_cluster_config() or {}).get("GPU", 0))


@contextlib.contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Keep Ray from replacing the process's SIGTERM handler inside this context.

    Ray's handler in Python ends the process with exit code 15, also while Ray starts. Ray also installs a handler in
    C++, which prints a stack and may abort; the process's handler is therefore set again at the end.
    """
    before: Callable[[Any], None] = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def dead_processes() -> list[str]:
    """Return the names of the dead processes of the Ray that this process started, such as `raylet`, `gcs_server`."""
    node = worker._global_node
    return [] if node is None else [str(name) for name, _ in node.dead_processes()]


def raylet_socket() -> str | None:
    """Return the path of the Unix socket at which this machine's raylet listens."""
    node = worker._global_node
    return None if node is None else str(node.raylet_socket_name)
