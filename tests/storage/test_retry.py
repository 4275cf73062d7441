"""Test that failed calls to a store are retried, and that answers are not."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from vace_batch.errors import LostError
from vace_batch.storage.retry import RetryingFileSystem, is_disk_full, retry


class Store:
    """A store that fails a number of times with a given error, then answers."""

    def __init__(self, failures: int, error: Callable[[], BaseException] = lambda: OSError("503 Slow Down")) -> None:
        self.failures, self.error, self.calls = failures, error, 0
        self.name = "store"

    def cat(self, path: str, *, start: int = 0) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        return path[start:]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("vace_batch.storage.retry.time.sleep", found.append)
    return found


def test_a_call_is_made_again_with_longer_pauses(pauses: list[float]) -> None:
    store = Store(5)
    assert RetryingFileSystem(store).cat("abc", start=1) == "bc" and RetryingFileSystem(store).name == "store"
    assert len(pauses) == 5 and pauses[4] > pauses[0] and 1 < sum(pauses) < 6


def test_the_failure_is_raised_after_the_last_retry(pauses: list[float]) -> None:
    store = Store(100)
    with pytest.raises(OSError, match="503"):
        retry(store.cat, "abc")
    assert store.calls == 6


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError, PermissionError, ValueError])
def test_answers_are_not_retried(pauses: list[float], error: type[BaseException]) -> None:
    store = Store(1, error)
    with pytest.raises(error):
        retry(store.cat, "abc")
    assert (store.calls, pauses) == (1, [])


@pytest.mark.parametrize(("module", "times", "raised"), [("azure.core.exceptions", 6, OSError), ("mine", 1, KeyError)])
def test_a_drivers_own_exception_is_a_failed_call_and_a_bug_is_a_bug(
    pauses: list[float], module: str, times: int, raised: type[BaseException]
) -> None:
    error = type("HttpResponseError", (KeyError,), {"__module__": module, "__str__": lambda _: "500 of ?sig=s3cret\n"})
    store = Store(100, error)
    with pytest.raises(raised) as caught:
        RetryingFileSystem(store).cat("abc")
    assert store.calls == times and (raised is KeyError or "500" in str(caught.value) and "s3cret" not in str(caught))


def test_a_full_disk_is_an_answer(pauses: list[float]) -> None:
    store = Store(1, lambda: OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError) as caught:
        retry(store.cat, "abc")
    assert is_disk_full(caught.value) and not is_disk_full(OSError("other")) and store.calls == 1


class _ClientError(Exception):
    """An error of botocore, which s3fs puts behind its own."""

    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code, "Message": "The provided token has expired."}}


def _refused(code: str) -> PermissionError:
    error = PermissionError("Access Denied")
    error.__cause__ = _ClientError(code)
    return error


def test_an_expired_token_is_a_loss_and_a_forbidden_file_an_answer(pauses: list[float]) -> None:
    store = Store(1, lambda: _refused("ExpiredToken"))
    with pytest.raises(LostError, match=r"ExpiredToken: The provided token has expired\.; renew them"):
        RetryingFileSystem(store).cat("abc")
    with pytest.raises(PermissionError):
        RetryingFileSystem(Store(1, lambda: _refused("AccessDenied"))).cat("abc")
    assert (store.calls, pauses) == (1, [])


@pytest.mark.parametrize("module", ["google.auth.exceptions", "botocore.exceptions"])
def test_credentials_that_cannot_be_renewed_are_a_loss(pauses: list[float], module: str) -> None:
    error = type("RefreshError", (Exception,), {"__module__": module})
    with pytest.raises(LostError, match="RefreshError"):
        RetryingFileSystem(Store(1, error)).cat("abc")


def test_a_store_whose_calls_take_long_is_given_up_after_half_a_minute(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("vace_batch.storage.retry.time.monotonic", lambda: next(clock))
    store = Store(100)
    with pytest.raises(OSError, match="503"):
        retry(store.cat, "abc")
    assert store.calls == 3
