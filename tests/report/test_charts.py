"""Charts: places and sizes of parts, bars and columns."""

from __future__ import annotations

from vace_batch.report.charts import amount, nice_ceiling, ranked, stacked, timeline


def test_pictures_of_numbers() -> None:
    parts = stacked({"done": 3, "failed": 1, "pending": 0})
    assert [(part.start, part.length) for part in parts] == [(0, 75), (75, 25), (100, 0)]
    assert [part.length for part in stacked({"done": 0})] == [0]
    bars = ranked({str(number): float(number) for number in range(12)})
    assert len(bars) == 8 and bars[-1].name == "5 others" and sum(part.value for part in bars) == 66
    columns = timeline([(0, 1), (60, 4)], 60, "clips").columns
    assert [round(column.y + column.height) for column in columns] == [120, 120]
    assert columns[1].height / columns[0].height == 4 and timeline([], 60, "clips").columns == ()
    assert [nice_ceiling(value) for value in (0, 0.3, 1, 3, 7, 1000)] == [1, 0.5, 1, 5, 10, 1000]
    assert (amount(3), amount(180), amount(36_000)) == ("3.0 s", "3.0 min", "10.0 h")
