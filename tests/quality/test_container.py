"""Faults of a file: frames, times and tracks."""

from __future__ import annotations

from pathlib import Path

from tests.support.media_files import Media, Sound, make
from vace_batch.geometry import Size
from vace_batch.manifest.job import Job
from vace_batch.options import QualitySettings
from vace_batch.quality.container import Contract, container_faults
from vace_batch.quality.verdict import checks_of, judge
from vace_batch.video.probe import probe

JOB = Job(job_id="a", video_uri="", task="removal")


def test_a_broken_container_fails_whatever_the_pixels_say(tmp_path: Path) -> None:
    source, short, late = (tmp_path / name for name in ("source.mp4", "short.mp4", "late.mp4"))
    make(source, Media(sounds=(Sound(),)))
    make(short, Media(num_frames=11))
    make(late, Media(sounds=(Sound(),), pts=[*range(11), 14]))
    contract = Contract(num_frames=12, size=Size(64, 48), times_kept=True)
    info = probe(str(source))
    assert container_faults(info, info, contract) == []
    assert container_faults(info, probe(str(short)), contract) == ["11 frames instead of 12", "0 of 1 sound tracks"]
    [late_by] = container_faults(info, probe(str(late)), contract)
    assert "0.120 s" in late_by
    verdict = judge({}, checks_of(JOB), QualitySettings(), ["11 frames instead of 12"])
    assert verdict.verdict == "fail" and "11 frames" in verdict.reasons[0]
