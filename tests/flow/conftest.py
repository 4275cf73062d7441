from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server with a database of its own, in a process of its own; about 12 s, so once."""
    with prefect_test_harness(server_startup_timeout=600):
        yield
