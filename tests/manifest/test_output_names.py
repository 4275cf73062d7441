"""Test that output names stay in the folder and collide on no file system."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vace_batch.manifest.output_names import MAX_NAME_BYTES, collision_key, safe_name

ODD_IDS = [
    "",
    ".",
    "..",
    "../../escape",
    "/tmp/abs_escape",
    "a/b",
    "a\\b",
    "nul\0byte",
    "CON",
    "con",
    "nul.tar",
    "com1",
    " id with space ",
    "x" * 300,
    "-i",
    ".hidden",
    "trailing.",
    "a..b",
    "Clip",
    "caf\u00e9",
    "cafe\u0301",
    "日本語 🎬",
    "🎬",
    "१२ ½ ℀ ⒈",
    "new\nline",
    "q'u\"o;$(touch pwned)&",
    "star*[1]?",
    "İ",
    "ß",
    "SS",
    "ﬁ",
    "\u202egpj",
]
ids = st.text(max_size=30) | st.text("aA.-_/ éE\u0301ß", max_size=6) | st.sampled_from(ODD_IDS)


@pytest.mark.parametrize("job_id", ["clip", "news_0042", "a.b-c", "_x", "0", "2024-01-02", "a" * 120, "id-1700000000"])
def test_a_safe_id_is_its_own_name(job_id: str) -> None:
    assert safe_name(job_id) == job_id


@given(ids)
@example("x" * 300)
@example("界" * 300)
def test_a_name_is_safe_on_every_file_system(job_id: str) -> None:
    name = safe_name(job_id)
    assert name and len(name.encode()) <= MAX_NAME_BYTES
    assert not set(name) & set('/\\\0:*?"<>| \n') and ".." not in name and name.isprintable()
    assert name[0] not in ".-" and name[-1] not in ". "
    assert name.split(".")[0] not in ("con", "prn", "aux", "nul", "com1", "lpt1")
    assert unicodedata.is_normalized("NFC", name) and name == name.lower()
    # Normalising must not bring separators back.
    assert not set(unicodedata.normalize("NFKC", name)) & set("/\\\0:")


@settings(max_examples=300)
@given(st.lists(ids, unique=True, max_size=12))
def test_distinct_ids_have_distinct_names_on_case_blind_and_normalising_file_systems(job_ids: list[str]) -> None:
    # An id may be chosen to look like another one's name.
    job_ids = list(dict.fromkeys([*job_ids, *map(safe_name, job_ids), *map(str.swapcase, job_ids)]))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        folded = {unicodedata.normalize(form, unicodedata.normalize(form, safe_name(i)).casefold()) for i in job_ids}
        assert len(folded) == len(job_ids)


def test_slugs_stay_readable() -> None:
    assert safe_name("News/1987 (April)").startswith("news_1987_april-")
    assert safe_name("東京タワー.夜").startswith("東京タワー_夜-")
    assert safe_name("हिन्दी").startswith("हिन्दी-")


def test_collision_key_joins_what_file_systems_join() -> None:
    assert collision_key("A/Caf\u00e9.mp4") == collision_key("a/cafe\u0301.MP4")
    assert collision_key("a. /b.mp4") == collision_key("a/b.mp4")
    assert collision_key("a/b.mp4") != collision_key("a_b.mp4")
