"""Faults of a CSV name the line of the file, also after cells of several lines and blank lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from vace_batch.errors import ManifestError
from vace_batch.manifest.builder import build_manifest
from vace_batch.manifest.csv_lines import record_lines

BOX = '"[{""frame"":0,""x"":1,""y"":1,""width"":4,""height"":%d}]"'
HEADER = "job_id,video_uri,task,boxes,prompt\n"


def faults(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "jobs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError) as raised:
        build_manifest(str(path), str(tmp_path / "m.parquet"))
    assert not (tmp_path / "m.parquet").exists()
    return [str(fault) for fault in raised.value.faults]


def test_a_fault_names_the_line_that_an_editor_shows(tmp_path: Path) -> None:
    text = f'{HEADER}a,a.mp4,removal,{BOX % 4},"two\nlines"\n\nb,b.mp4,removal,{BOX % -4},x\nc,c.mp4,removl,,x\n'
    bad_box, bad_task = faults(tmp_path, text)
    assert bad_box.startswith("line 5 (b), column boxes[0].height: got -4.0")
    assert bad_task.startswith("line 6 (c), column task: got 'removl'")


def test_the_other_row_of_a_clash_is_a_line_too(tmp_path: Path) -> None:
    [clash] = faults(tmp_path, f"\n{HEADER}a,a.mp4,removal,{BOX % 4},\n\na,b.mp4,removal,{BOX % 4},\n")
    assert clash == "line 5 (a), column job_id: got 'a', expected a unique id; line 3 has the same id"


def test_a_cell_that_cannot_be_parsed_and_a_missing_cell_name_their_line(tmp_path: Path) -> None:
    [bad_json] = faults(tmp_path, f'{HEADER}a,a.mp4,removal,"[{{",x\n')
    assert bad_json.startswith("line 2 (a), column boxes: got '[{', expected JSON")
    [short] = faults(tmp_path, f"{HEADER}\na,a.mp4,removal,{BOX % 4},x\nb,b.mp4\n")
    assert short == "line 4: got 2 cells, expected 5, as in the header"


def test_lines_are_counted_with_a_byte_order_mark_and_either_end_of_line() -> None:
    assert record_lines(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n\r\n2,z\r\n') == [1, 2, 5]
