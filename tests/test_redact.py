"""Test that no message, record or log line contains credentials."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vace_batch import log
from vace_batch.errors import ClipError, Fault, ManifestError, UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.redact import has_secret, redact

SECRET = "hu/nter2+="
TEXTS = [
    f"s3://AKIA:{SECRET}@bucket/key and more",
    f"https://user:{SECRET}@host/x?y=1",
    f"https://{SECRET.replace('/', '')}@host/x",
    f"GET https://b.s3.amazonaws.com/k?X-Amz-Credential=A&X-Amz-Signature={SECRET}&Expires=1",
    f"https://store.blob.core.windows.net/c/k?sv=1&sig={SECRET}",
    f"https://h/x?token={SECRET}",
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"password={SECRET}, in '/x'",
]


@pytest.mark.parametrize("text", TEXTS)
def test_credentials_are_removed(text: str) -> None:
    hidden = redact(text)
    assert "nter2" not in hidden and "***" in hidden and redact(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    ["abfs://container@account.dfs.core.windows.net/x", "s3://bucket/a:b@c.mp4", "/data/secret=1/x.mp4", "a@b.org: hi"],
)
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text and not has_secret(text)


@given(st.text(max_size=200))
def test_redaction_takes_any_text(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", TEXTS)
def test_no_message_record_or_line_has_credentials(text: str, tmp_path: Path) -> None:
    fault = Fault(row=1, job_id="a", column="video_uri", got=text, expected="x")
    messages = [str(ClipError("code", text)), ClipError("code", text).reason, str(UsageError(text))]
    messages += [str(fault), str(ManifestError([fault]))]
    ledger = Ledger(str(tmp_path))
    ledger.quarantine("clip-00", {"reason": text})
    ledger.note_mishap("clip-00", step="stitch", traceback=text)
    messages += [path.read_text() for path in tmp_path.rglob("*.json")]
    for formatter in (log.JsonFormatter(), log.TextFormatter()):
        sink = io.StringIO()
        handler = logging.StreamHandler(sink)
        handler.setFormatter(formatter)
        try:
            raise ValueError(text)
        except ValueError:
            handler.handle(logging.makeLogRecord({"msg": "%s", "args": (text,), "uri": text}))
        messages.append(sink.getvalue())
        if isinstance(formatter, log.JsonFormatter):
            json.loads(sink.getvalue())
    assert len(messages) == 9 and not [line for line in messages if "nter2" in line]
