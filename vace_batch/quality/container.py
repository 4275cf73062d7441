"""Check a finished file's container: number of frames, their times, size and the other tracks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vace_batch.geometry import Size
from vace_batch.video.probe import VideoInfo
from vace_batch.video.reader import packet_times


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Requirements on the output file; `times_kept` if its frames must be shown at the source's times."""

    num_frames: int
    size: Size
    times_kept: bool


def container_faults(source: VideoInfo, output: VideoInfo, contract: Contract) -> list[str]:
    """List the broken requirements, one sentence each; reads the packets of both files, decodes nothing.

    Raises:
        ClipError: a file cannot be read.
    """
    faults = []
    times = packet_times(output.path)
    if len(times) != contract.num_frames:
        faults.append(f"{len(times)} frames instead of {contract.num_frames}")
    if output.size != contract.size:
        faults.append(f"frames of {output.size} instead of {contract.size}")
    if output.num_audio < source.num_audio:
        faults.append(f"{output.num_audio} of {source.num_audio} sound tracks")
    if output.num_subtitles < source.num_subtitles and output.container == source.container:
        faults.append(f"{output.num_subtitles} of {source.num_subtitles} subtitle tracks")
    if contract.times_kept and len(times) == contract.num_frames:
        late = _latest(packet_times(source.path), source.time_base, times, output.time_base)
        if late is not None and late > max(source.time_base, output.time_base, Fraction(1, 500)):
            faults.append(f"frames are shown up to {float(late):.3f} s too early or late")
    return faults


def _latest(
    before: list[int | None], before_base: Fraction, after: list[int | None], after_base: Fraction
) -> Fraction | None:
    """Measure the largest shift of a frame's time against the first frame; None without times or with other frames."""
    pairs = [(a, b) for a, b in zip(before, after, strict=False) if a is not None and b is not None]
    if len(pairs) != len(before) or len(before) != len(after):
        return None
    first_a, first_b = pairs[0]
    return max(abs((a - first_a) * before_base - (b - first_b) * after_base) for a, b in pairs)
