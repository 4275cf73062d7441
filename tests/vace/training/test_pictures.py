"""Training pictures: crops of photographs, and drawn pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from vace_batch.errors import UsageError
from vace_batch.vace.training.pictures import Pictures


def test_no_photographs_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no readable picture"):
        Pictures(tmp_path)
