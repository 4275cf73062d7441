"""HDR10 metadata: read from a frame, written for each encoder, kept in the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import pytest

from tests.support.media_files import Media, make
from tests.support.textured_clips import psnr, same
from vace_batch.video.encoders import EncoderSettings, choose_encoding
from vace_batch.video.hdr import Hdr
from vace_batch.video.probe import probe
from vace_batch.video.writer import rewrite

MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@pytest.mark.parametrize(
    ("codec", "params"),
    [
        ("libx265", {"x265-params": f"log-level=error:open-gop=0:master-display={MASTERING}:max-cll=1000,400"}),
        ("libx264", {"x264-params": f"mastering-display={MASTERING}:cll=1000,400"}),
    ],
)
@pytest.mark.parametrize("edited", [None, [(9, 10)]])
def test_hdr10_is_kept(
    tmp_path: Path, codec: str, params: dict[str, str], edited: list[tuple[int, int]] | None
) -> None:
    media = Media(
        codec=codec, num_frames=20, pix_fmt="yuv420p10le", tags=(9, 9, 16, 1), options={"g": "8", "crf": "10"} | params
    )
    for suffix in (".mp4", ".mkv"):
        source = make(tmp_path / ("a" + suffix), media)
        target = str(tmp_path / ("out" + suffix))
        report = rewrite(source, target, same, None, edited)
        assert report.notes == () and report.copied_frames == (12 if edited else 0)
        info = probe(target)
        assert (info.matrix, info.primaries, info.trc, info.color_range, info.bit_depth) == (9, 9, 16, 1, 10)
        assert info.hdr.mastering_text == MASTERING and info.hdr.content_light == (1000, 400)
        with av.open(source) as one, av.open(target) as other:
            found = [[Hdr.of(frame) for frame in container.decode(video=0)] for container in (one, other)]
        assert found[0] == found[1]
        assert psnr(source, target) >= 46


def test_hdr10_that_an_encoder_does_not_take_is_said(tmp_path: Path) -> None:
    params = f"log-level=error:master-display={MASTERING}:max-cll=1000,400"
    info = probe(
        make(tmp_path / "a.mp4", Media(codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": params}))
    )
    assert choose_encoding(info, EncoderSettings()).notes == ()
    told = choose_encoding(
        replace(info, codec="prores", pix_fmt="yuv422p10le", chroma_location="center"), EncoderSettings(), "mov"
    ).notes
    assert told == ("HDR10 mastering and light levels left out: prores_ks does not take them",)
    plus = choose_encoding(replace(info, hdr=replace(info.hdr, dynamic=("HDR10+",))), EncoderSettings()).notes
    assert plus == ("HDR10+ left out of re-encoded frames: they cannot be passed to libx265",)


def test_a_frame_without_metadata_says_nothing() -> None:
    hdr = Hdr.of(av.VideoFrame(16, 16, "yuv420p"))
    assert hdr == Hdr() and hdr.mastering_text is None and hdr.mastering_real is None


def test_the_same_display_in_whole_steps_and_in_real_numbers() -> None:
    hdr = Hdr(mastering=(13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50))
    assert hdr.mastering_text == MASTERING
    assert hdr.mastering_real == (
        "G(0.26500,0.69000)B(0.15000,0.06000)R(0.68000,0.32000)WP(0.31270,0.32900)L(1000.0000,0.0050)"
    )
