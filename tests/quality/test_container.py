"""Faults of a file, a test for each kind of damage: frames, times, tracks, labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from tests.support.media_files import Media, Sound, make
from vace_batch.geometry import Box, Size
from vace_batch.manifest.job import Job
from vace_batch.options import QualitySettings
from vace_batch.quality.container import Contract, container_faults
from vace_batch.quality.verdict import checks_of, judge
from vace_batch.video.canvas_frames import Canvas
from vace_batch.video.probe import probe
from vace_batch.video.writer import rewrite

JOB = Job(job_id="a", video_uri="", task="removal")
CONTRACT = Contract(num_frames=12, size=Size(64, 48))
ENGLISH = Media(sounds=(Sound(language="eng"), Sound(language="fra", hertz=900)), num_frames=25)

Change = Callable[[Any], list[Any]]
"""Changes one packet of the second stream, which is the first sound track: [] drops it."""


def faults(source: str | Path, output: str | Path, **contract: Any) -> list[str]:
    info = probe(str(source))
    expected = replace(CONTRACT, **{"num_frames": 25, **contract})
    return container_faults(info, probe(str(output)), expected)


def damaged(source: str, target: Path, change: Change, *, stream: int = 1, attachments: bool = True) -> Path:
    """Copy a file packet by packet, with `change` applied to the packets of one stream."""
    with av.open(source) as plain, av.open(str(target), "w") as sink:
        copies: dict[int, Any] = {}
        for each in plain.streams:
            if each.type == "attachment":
                if attachments:
                    sink.add_attachment(each.metadata["filename"], each.metadata["mimetype"], bytes(each.data))
                continue
            copies[each.index] = sink.add_stream_from_template(each, opaque=True)
            copies[each.index].metadata.update(each.metadata)
            copies[each.index].disposition = each.disposition
        sink.set_chapters(plain.chapters())
        for packet in plain.demux(*[plain.streams[index] for index in copies]):
            for kept in change(packet) if packet.stream_index == stream and packet.size else [packet]:
                if kept.size:
                    kept.stream = copies[packet.stream_index]
                    sink.mux(kept)
    return target


def seconds(packet: Any) -> float:
    return float(packet.pts * packet.time_base)


def without(start_s: float, stop_s: float) -> Change:
    return lambda packet: [] if start_s <= seconds(packet) < stop_s else [packet]


def shifted(by_s: float) -> Change:
    def shift(packet: Any) -> list[Any]:
        packet.pts += round(by_s / packet.time_base)
        packet.dts += round(by_s / packet.time_base)
        return [packet]

    return shift


def garbage(start_s: float, stop_s: float) -> Change:
    def spoil(packet: Any) -> list[Any]:
        if not start_s <= seconds(packet) < stop_s:
            return [packet]
        spoilt: Any = av.Packet(b"\xff" * packet.size)
        spoilt.pts, spoilt.dts, spoilt.duration = packet.pts, packet.dts, packet.duration
        spoilt.time_base = packet.time_base
        return [spoilt]

    return spoil


def test_a_broken_container_fails_whatever_the_pixels_say(tmp_path: Path) -> None:
    source, short, late = (tmp_path / name for name in ("source.mp4", "short.mp4", "late.mp4"))
    make(source, Media(sounds=(Sound(),)))
    make(short, Media(num_frames=11))
    make(late, Media(sounds=(Sound(),), pts=[*range(11), 14]))
    info = probe(str(source))
    assert container_faults(info, info, CONTRACT) == []
    missing = ["11 frames instead of 12", "sound track 1 (aac) is missing"]
    assert container_faults(info, probe(str(short)), CONTRACT) == missing
    [late_by] = container_faults(info, probe(str(late)), CONTRACT)
    assert late_by == "frame 11 is shown 0.120 s too late"
    verdict = judge({}, checks_of(JOB), QualitySettings(), ["11 frames instead of 12"])
    assert verdict.verdict == "fail" and "11 frames" in verdict.reasons[0]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (without(-1, -1), []),
        (without(0.6, 9), ["ends 0."]),
        (without(-1, 0.3), ["begins 0."]),
        (without(0.4, 0.6), ["has a gap of 0."]),
        (without(0.4, 0.42), ["has a gap of 0.02"]),
        (shifted(0.3), ["is 0."]),
    ],
)
def test_damaged_sound_is_named(tmp_path: Path, suffix: str, change: Change, sentences: list[str]) -> None:
    source = str(damaged(make(tmp_path / "plain.mp4", ENGLISH), tmp_path / ("a" + suffix), lambda packet: [packet]))
    output = damaged(source, tmp_path / ("b" + suffix), change)
    found = faults(source, output)
    assert len(found) == len(sentences), found
    for fault, sentence in zip(found, sentences, strict=True):
        assert fault.startswith("sound track 1 (aac, eng) " + sentence)


def test_sound_that_ends_early_is_told_in_seconds(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Media(sounds=(Sound(language="eng", seconds=10),), num_frames=250))
    output = damaged(source, tmp_path / "b.mp4", without(7.6, 11))
    sentence = "sound track 1 (aac, eng) ends 2.4 s early: 7.6 s, the source has 10.0 s"
    assert faults(source, output, num_frames=250) == [sentence]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_changed_packet_is_found_wherever_it_is(tmp_path: Path, suffix: str) -> None:
    source = make(tmp_path / ("a" + suffix), ENGLISH)
    output = damaged(source, tmp_path / ("b" + suffix), garbage(0.82, 0.84))
    [fault] = faults(source, output)
    assert fault.startswith("sound track 1 (aac, eng) is not the source's bit for bit: 1 of 48 packets, the first ")


def test_sound_that_no_decoder_takes_is_named_in_another_container_too(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", ENGLISH)
    assert faults(source, damaged(source, tmp_path / "good.mp4", lambda packet: [packet])) == []
    found = faults(source, damaged(source, tmp_path / "bad.mp4", garbage(0.3, 0.5)))
    assert found == ["sound track 1 (aac, eng) cannot be decoded at 0.320 s"]


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".avi"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without(-1, -1), None),
        (without(0.6, 9), "ends 0."),
        (without(0.4, 0.6), "has a gap|ends 0."),  # MOV and AVI close the gap
        (garbage(0.4, 0.42), "is not the source's bit for bit"),
    ],
)
def test_damaged_pcm_is_named(tmp_path: Path, suffix: str, change: Change, sentence: str | None) -> None:
    """A demuxer cuts PCM into packets as it likes: they are not compared one by one."""
    codec, options = ("mpeg4", {"b": "2M"}) if suffix == ".avi" else ("libx264", {})
    media = Media(sounds=(Sound(codec="pcm_s16le"),), num_frames=25, codec=codec, options=options)
    source = make(tmp_path / ("a" + suffix), media)
    found = faults(source, damaged(source, tmp_path / ("b" + suffix), change))
    if sentence is None:
        assert found == []
    else:
        assert found and re.match(rf"sound track 1 \(pcm_s16le\) ({sentence})", found[0])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_missing_subtitle_is_named(tmp_path: Path, suffix: str) -> None:
    codec = "mov_text" if suffix == ".mp4" else "subrip"
    media = Media(subtitles=("one", "two", "three"), subtitle_codec=codec, num_frames=25)
    source = make(tmp_path / ("a" + suffix), media)
    whole = damaged(source, tmp_path / ("whole" + suffix), lambda packet: [packet])
    assert faults(source, whole) == []
    output = damaged(source, tmp_path / ("b" + suffix), without(0.1, 0.3))
    sentence = f"subtitle track 1 ({codec}) has 2 cues, the source has 3, the first difference at 0.200 s"
    assert faults(source, output) == [sentence]
    output = damaged(source, tmp_path / ("late" + suffix), lambda packet: packet_at(packet, 0.2, 0.25))
    [fault] = faults(source, output)
    assert fault.startswith(f"subtitle track 1 ({codec}) is out of time from 0.200 s on: 1 of 3 packets, ")


def packet_at(packet: Any, old_s: float, new_s: float) -> list[Any]:
    if abs(seconds(packet) - old_s) < 0.01:
        packet.pts = packet.dts = round(new_s / packet.time_base)
    return [packet]


def test_labels_that_are_lost_are_named(tmp_path: Path) -> None:
    commentary = Sound(language="eng", disposition=8)
    plain = Media(sounds=(commentary,), chapters=("one", "two"))
    cases: list[tuple[Media, str]] = [
        (replace(plain, sounds=(replace(commentary, language="und"),)), "has the language und, the source has eng"),
        (replace(plain, sounds=(replace(commentary, disposition=0),)), "has the flags none, the source has comment"),
        (replace(plain, chapters=("one",)), "1 of 2 chapters"),
        (replace(plain, chapters=("one", "three")), "chapter 2 is called 'three', in the source 'two'"),
    ]
    source = make(tmp_path / "a.mkv", plain)
    for number, (media, sentence) in enumerate(cases):
        [fault] = faults(source, make(tmp_path / f"{number}.mkv", media), num_frames=12)
        assert fault.endswith(sentence)


def test_the_look_of_the_pictures_is_compared(tmp_path: Path) -> None:
    plain = Media(tags=(9, 9, 16, 1), rotation=180, sample_aspect_ratio=Fraction(4, 3), timecode="10:00:00:00")
    cases: list[tuple[Media, str]] = [
        (replace(plain, tags=(1, 9, 16, 1)), "colour matrix itu709, the source has bt2020"),
        (replace(plain, tags=(9, 2, 16, 1)), "colour primaries untagged, the source has bt2020"),
        (replace(plain, rotation=0), "a rotation of 0 degrees, the source has 180 degrees"),
        (replace(plain, sample_aspect_ratio=None), "pixels of 1, the source has 4/3"),
        (replace(plain, timecode=None), "timecode none, the source has 10:00:00:00"),
    ]
    source = make(tmp_path / "a.mov", plain)
    for number, (media, sentence) in enumerate(cases):
        assert sentence in faults(source, make(tmp_path / f"{number}.mov", media), num_frames=12)


def test_lost_attachments_are_named(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    with av.open(make(tmp_path / "plain.mkv", Media())) as plain, av.open(str(source), "w") as sink:
        copy = sink.add_stream_from_template(plain.streams.video[0])
        sink.add_attachment("font.ttf", "application/x-truetype-font", b"no real font")
        for packet in plain.demux():
            if packet.size:
                packet.stream = copy
                sink.mux(packet)
    output = damaged(str(source), tmp_path / "b.mkv", lambda packet: [packet], attachments=False)
    assert faults(source, output, num_frames=12) == ["attachment 1 (font.ttf) is missing"]


def test_a_loss_that_the_writer_says_is_no_fault(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Media(sounds=(Sound(),), subtitles=("one",), num_frames=25))
    output = str(tmp_path / "b.mkv")
    report = rewrite(source, output, lambda _: None)
    assert any("left out" in note for note in report.notes)
    assert faults(source, output, notes=report.notes) == []
    assert faults(source, output) == ["subtitle track 1 (mov_text) is missing"]


def test_frames_before_the_first_move_the_sound(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Media(sounds=(Sound(),), chapters=("one",), num_frames=25))
    output = str(tmp_path / "b.mp4")
    info = probe(source)
    picture = Box(0, 0, 64, 48)
    canvas = Canvas(size=info.size, source=picture, kept=picture, before=10, after=5)
    rewrite(source, output, lambda _: None, canvas=canvas)
    longer = {"num_frames": 40, "before": 10, "lead_s": canvas.lead_s(info)}
    assert faults(source, output, **longer) == []
    [sound] = faults(source, output, num_frames=40, before=10)
    assert re.match(r"sound track 1 \(aac\) is 0\.\d+ s late from its first to its last packet", sound)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_at_other_times_are_named(tmp_path: Path, suffix: str) -> None:
    clock = Fraction(1, 1000)
    uneven = [0, 40, 100, 200, 220, 300, 340, 400, 420, 500, 520, 600]
    source = make(tmp_path / ("a" + suffix), Media(pts=uneven, time_base=clock))
    even = make(tmp_path / ("b" + suffix), Media(pts=[50 * n for n in range(12)], time_base=clock))
    assert faults(source, source, num_frames=12) == []
    assert faults(source, even, num_frames=12) == ["frame 7 is shown 0.050 s too early"]
