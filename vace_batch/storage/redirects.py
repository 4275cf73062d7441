"""Keep clients of stores from following redirects, which all of them do by default.

A bucket's answer must not make this machine ask another host, such as a metadata service, nor open a file.
"""

from __future__ import annotations

import functools
import importlib.util
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

REPLACED = {
    "s3": "aiobotocore.httpsession:AIOHTTPSession._get_session",
    "az": "adlfs.spec:AIOBlobServiceClient",
}
"""The private member of each scheme's driver that this module replaces."""


@functools.cache
def no_redirect_options(scheme: str) -> dict[str, Any]:
    """Return the options that stop redirects in the fsspec driver of `scheme`; empty without such a driver."""
    if scheme == "s3" and importlib.util.find_spec("aiobotocore") is not None:
        return {"config_kwargs": {"http_session_cls": _s3_session()}}
    if scheme in ("gs", "gcs") and importlib.util.find_spec("gcsfs") is not None:
        return {"session_kwargs": {"trace_configs": [_gs_trace()]}}
    if scheme in ("az", "abfs", "abfss") and importlib.util.find_spec("adlfs") is not None:
        _keep_azure_clients_at_home()
    return {}


def _s3_session() -> Any:
    from aiobotocore.httpsession import AIOHTTPSession

    class NoRedirects(AIOHTTPSession):  # type: ignore[misc]
        async def _get_session(self, proxy_url: str | None) -> Any:
            return _Unredirected(await super()._get_session(proxy_url))

    return NoRedirects


class _Unredirected:
    """An aiohttp session that does not follow redirects."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def request(self, *args: Any, **more: Any) -> Any:
        return self._session.request(*args, **more, allow_redirects=False)


def _gs_trace() -> Any:
    """Make a trace that aiohttp calls before a redirect; Google's 308 without a location continues an upload."""
    import aiohttp

    async def refuse(
        session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        if "Location" in params.response.headers or "URI" in params.response.headers:
            raise OSError(f"the store answered {params.response.status}, a redirect, which is not followed")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace


def _keep_azure_clients_at_home() -> None:
    """Replace adlfs's client class, as adlfs takes no client options; Azure's option is `permit_redirects`."""
    from adlfs import spec

    class NoRedirects(spec.AIOBlobServiceClient):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "permit_redirects": False})

    spec.AIOBlobServiceClient = NoRedirects
