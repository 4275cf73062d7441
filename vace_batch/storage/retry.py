"""Retry failed calls to a store for some seconds before they raise."""

from __future__ import annotations

import errno
import functools
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from vace_batch.errors import LostError
from vace_batch.redact import redact

_T = TypeVar("_T")
_TRIES = 6
_FIRST_PAUSE_S = 0.1
_PATIENCE_S = 30.0
"""Seconds after the first failure until a failing call is not repeated: a driver's own tries may take long."""
_EXPIRED = frozenset(
    {
        # codes of S3
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        # exceptions of botocore, google-auth and azure-core
        "ClientAuthenticationError",
        "CredentialRetrievalError",
        "RefreshError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
    }
)
"""Answers and errors which say that the credentials of this process are no longer good for any file of a store."""
_DRIVERS = frozenset({"aiohttp", "azure", "botocore", "gcsfs", "google", "requests"})
_ANSWERS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


class RetryingFileSystem:
    """A store's file system whose calls are retried, unless the failure is an answer about the file.

    A call may be sent more than once, also after a lost answer, so every operation must be idempotent.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._fs, name)
        return functools.partial(retry, self._call, call) if callable(call) else call

    def _call(self, call: Callable[..., _T], *args: Any, **more: Any) -> _T:
        """Call the file system; when S3 answers a HEAD request by 400, without a reason, ask for the reason."""
        try:
            return _as_files_fail(call, *args, **more)
        except OSError as error:
            if args and _answer_of(error.__cause__).get("Code") == "400":
                self._check_readable(args[0])
            raise

    def _check_readable(self, path: str) -> None:
        """Read a byte, whose refusal has a reason.

        Raises:
            LostError: the store no longer takes the credentials of this process.
        """
        try:
            _as_files_fail(self._fs.cat_file, path, start=0, end=1)
        except OSError as error:
            _check_credentials(error)


def _as_files_fail(call: Callable[..., _T], *args: Any, **more: Any) -> _T:
    """Call `call(*args, **more)`; exceptions of stores' clients, which adlfs and gcsfs pass on, become `OSError`."""
    try:
        return call(*args, **more)
    except OSError:
        raise
    except Exception as error:
        _check_credentials(error)
        if type(error).__module__.split(".")[0] in _DRIVERS:
            raise OSError(redact(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")) from error
        raise


def retry(call: Callable[..., _T], *args: Any, **more: Any) -> _T:
    """Call `call(*args, **more)` up to six times, with growing pauses, while the call fails with an `OSError`.

    An error about the file (not found, a folder) or a full disk is an answer, and is not retried.

    Raises:
        LostError: the store no longer takes the credentials of this process.
    """
    first_failure = None
    for number in range(_TRIES):
        try:
            return call(*args, **more)
        except OSError as error:
            _check_credentials(error)
            first_failure = first_failure or time.monotonic()
            is_last = number == _TRIES - 1 or time.monotonic() - first_failure > _PATIENCE_S
            if is_last or isinstance(error, _ANSWERS) or is_disk_full(error):
                raise
            # Random, or all callers that failed together would retry together.
            time.sleep(_FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1.5))
    raise AssertionError("the last try returns or raises")


def _check_credentials(error: BaseException) -> None:
    """Do nothing unless an error, or the client's error behind it, says that the credentials are no longer good.

    Raises:
        LostError: the error says so.
    """
    for one in (error, error.__cause__):
        answer = _answer_of(one)
        name = answer.get("Code") or type(one).__name__
        if name in _EXPIRED or getattr(one, "code", None) == 401:
            message = answer.get("Message") or str(one).partition("\n")[0]
            raise LostError(
                redact(f"the store refuses the credentials of this process: {name}: {message}; renew them")
            ) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _answer_of(error: BaseException | None) -> dict[str, str]:
    """Return the code and the message of S3's answer in an error of botocore, or an empty dict."""
    response = getattr(error, "response", None)
    answer: dict[str, str] = response.get("Error", {}) if isinstance(response, dict) else {}
    return answer
