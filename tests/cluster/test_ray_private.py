"""Ray's private members: an upgrade that removes one fails here by its name."""

from __future__ import annotations

import os
import pkgutil
import re
import signal
from pathlib import Path

import pytest

from vace_batch.cluster.ray_private import RAY_MEMBERS, keep_sigterm_handler, on_loopback, ray_constants, utils

PACKAGE = Path(__file__).parents[2] / "vace_batch"


@pytest.mark.parametrize("member", RAY_MEMBERS)
def test_ray_still_has_the_private_member(member: str) -> None:
    assert pkgutil.resolve_name(member) is not None


def test_private_members_of_ray_are_used_in_one_file_alone() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if re.search(r"\bray\.([a-z_]+\.)*_", path.read_text("utf-8"))}
    assert users == {"ray_private.py"}


def test_on_loopback_holds_inside_its_context_alone() -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER
    with pytest.raises(RuntimeError), on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
        raise RuntimeError
    assert before == ray_constants.ENABLE_RAY_CLUSTER


def test_ray_s_environment_is_set_at_the_import() -> None:
    assert {"RAY_USAGE_STATS_ENABLED", "RAY_DEDUP_LOGS_SKIP_REGEX", "RAY_IGNORE_UNHANDLED_ERRORS"} <= set(os.environ)


def test_ray_cannot_replace_the_sigterm_handler_inside_the_context() -> None:
    before = signal.getsignal(signal.SIGTERM)
    set_handler = utils.set_sigterm_handler
    with keep_sigterm_handler():
        utils.set_sigterm_handler(lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before and utils.set_sigterm_handler is set_handler
