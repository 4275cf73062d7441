"""Reading ahead: one call a chunk, also after a jump."""

from __future__ import annotations

from vace_batch.video.read_ahead import CHUNK_FRAMES, ReadAhead


def test_a_pass_reads_each_chunk_once() -> None:
    asked = []

    def get(start: int, stop: int) -> dict[int, str]:
        asked.append((start, stop))
        return {index: f"mask {index}" for index in range(start, stop) if index % 3 == 0}

    ahead = ReadAhead(get)
    for index in range(CHUNK_FRAMES + 10):
        assert ahead.at(index) == (f"mask {index}" if index % 3 == 0 else None)
    assert asked == [(0, CHUNK_FRAMES), (CHUNK_FRAMES, 2 * CHUNK_FRAMES)]
    assert ahead.at(999) == "mask 999" and asked[-1] == (999, 999 + CHUNK_FRAMES)
    assert ahead.at(3) == "mask 3" and asked[-1] == (3, 3 + CHUNK_FRAMES)
