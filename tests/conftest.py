"""Set up every test: no telemetry, one thread per library, and a test that logs an ERROR fails."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

gc.disable()  # until all tests are imported: a quarter less CPU time

from vace_batch.log import quiet_environment  # noqa: E402

quiet_environment()
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would run at nice 15, and on a machine that others keep busy not at all.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.support.lanes import rank, scheduler  # noqa: E402
from tests.support.shared_ray import cluster  # noqa: E402

# A busy machine is no fault of an example; a failing example can be run again by the printed decorator.
settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def copies() -> Iterator[None]:
    """Cache copies of remote files in a temporary folder."""
    os.environ["VACE_BATCH_CACHE"] = folder = tempfile.mkdtemp(prefix="vace-batch-tests-")
    yield
    shutil.rmtree(folder)


def pytest_collection_finish() -> None:
    """Let the collector of reference cycles begin, and pass over the modules of all tests for good."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let the interpreter collect at its end what it imported, or nanobind's modules print that they leak."""
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole lanes of tests."""
    return scheduler(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest lanes first where workers share the tests."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[dict[str, str]]:
    """A Ray cluster for every run whose subject is not Ray's start or end: the environment of what joins it."""
    with cluster() as environment:
        yield environment


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def package_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Put the package's logger back after the test; fail the test when it logged an ERROR that it does not expect."""
    logger = logging.getLogger("vace_batch")
    before = logger.handlers[:], logger.level, logger.propagate
    errors = _Errors()
    logger.addHandler(errors)
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    if errors.lines and "logs_errors" not in request.keywords:
        pytest.fail("logged: " + "; ".join(errors.lines))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="`make browser` installs what this needs")
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    named = os.environ.get("VACE_BATCH_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as found:
        program = named or found.chromium.executable_path
        if not os.path.exists(program):
            pytest.skip("no Chromium here; `make browser` installs one where that can be done")
        browser = found.chromium.launch(executable_path=program)
        yield browser
        browser.close()
