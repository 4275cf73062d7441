"""A store's call that fails is made again for some seconds before anybody hears of it."""

from __future__ import annotations

import errno
import functools
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from vace_batch.redact import redact

_T = TypeVar("_T")
_TRIES = 6
_FIRST_PAUSE_S = 0.1
_DRIVERS = frozenset({"aiohttp", "azure", "botocore", "gcsfs", "google", "requests"})
_ANSWERS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


class RetryingFileSystem:
    """A store's file system whose calls are made again when they fail with anything that is not an answer.

    Every call that is made through it may be made twice: what a lost answer had done already is done again.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._fs, name)
        return functools.partial(retry, _as_files_fail, call) if callable(call) else call


def _as_files_fail(call: Callable[..., _T], *args: Any, **more: Any) -> _T:
    """`call(*args, **more)`; what adlfs and gcsfs let through of their clients' own exceptions is an `OSError`."""
    try:
        return call(*args, **more)
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in _DRIVERS:
            raise OSError(redact(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")) from error
        raise


def retry(call: Callable[..., _T], *args: Any, **more: Any) -> _T:
    """`call(*args, **more)`, up to six times with longer and longer pauses while it fails with an `OSError`.

    What says something about the file (it is not there, it is a folder) and a full disk are answers, not failures.
    """
    for number in range(_TRIES - 1):
        try:
            return call(*args, **more)
        except _ANSWERS:
            raise
        except OSError as error:
            if is_disk_full(error):
                raise
            # Random, or all that failed together would come back together.
            time.sleep(_FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1.5))
    return call(*args, **more)


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed because there is no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
