"""Private members of diffusers and torch: an upgrade that removes one fails here by its name."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
from diffusers import AutoencoderKLWan

from vace_batch.vace.private_members import MEMBERS, VAE_MEMBERS

PACKAGE = Path(__file__).parents[2] / "vace_batch"


@pytest.mark.parametrize("member", MEMBERS)
def test_the_private_member_is_still_there(member: str) -> None:
    package, _, path = member.partition(":")
    owner, _, name = path.rpartition(".")
    parent = pkgutil.resolve_name(f"{package}:{owner}" if owner else package)
    assert hasattr(parent, name)


@pytest.mark.parametrize("member", VAE_MEMBERS)
def test_the_vae_still_has_the_private_member(member: str) -> None:
    vae = AutoencoderKLWan(base_dim=8)
    vae.clear_cache()
    assert hasattr(vae, member)


def test_private_members_are_used_in_one_file_alone() -> None:
    private = "|".join(
        [*VAE_MEMBERS, "_modeling_parallel", "_parallel_config", "_dynamo", "_abort_process_group", "_conv_forward"]
    )
    users = {path.name for path in PACKAGE.rglob("*.py") if re.search(rf"\.({private})\b", path.read_text("utf-8"))}
    assert users == {"private_members.py"}
