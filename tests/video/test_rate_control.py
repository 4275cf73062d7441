"""The encoder's quality follows the source, is found by trial, and is the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from tests.support.textured_clips import psnr, same, textured
from vace_batch.errors import ClipError
from vace_batch.video.encoders import EncoderSettings, choose_encoding
from vace_batch.video.probe import probe
from vace_batch.video.rate_control import choose_crf
from vace_batch.video.writer import rewrite


def test_quality_follows_the_source(tmp_path: Path) -> None:
    ratios, sizes, finenesses = [], [], []
    for crf in (6, 26):
        source = textured(tmp_path / f"{crf}.mp4", crf, noise=1)
        target = str(tmp_path / f"out_{crf}.mp4")
        rewrite(source, target, same)
        assert psnr(source, target) >= 46
        sizes.append(Path(target).stat().st_size)
        ratios.append(sizes[-1] / Path(source).stat().st_size)
        info = probe(source)
        finenesses.append(float(choose_crf(info, choose_encoding(info, EncoderSettings())).options["crf"]))
    assert finenesses[0] < finenesses[1] - 2
    # The fine source is not made coarser than it is, the coarse one not written as if it were fine.
    assert 0.8 < ratios[0] < 1.5 and sizes[1] < 0.7 * sizes[0]


def test_a_given_quality_is_taken(tmp_path: Path) -> None:
    source = textured(tmp_path / "a.mp4", 20)
    assert choose_encoding(probe(source), EncoderSettings(crf=31)).options["crf"] == "31"
    rewrite(source, str(tmp_path / "coarse.mp4"), same, EncoderSettings(crf=45))
    assert (tmp_path / "coarse.mp4").stat().st_size < 0.6 * (tmp_path / "a.mp4").stat().st_size


def test_quality_is_not_sought_on_frames_of_another_size(tmp_path: Path) -> None:
    """A damaged header may change the size half way; the pass that writes reports it."""
    small, large = (Path(make(tmp_path / f"{w}.ts", Media(width=w, num_frames=40))) for w in (64, 80))
    path = tmp_path / "a.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    info = probe(str(path))
    encoding = choose_encoding(info, EncoderSettings())
    assert choose_crf(info, encoding).codec == "libx264"
    with pytest.raises(ClipError) as caught:
        rewrite(str(path), str(tmp_path / "out.ts"), lambda frame: None)
    assert caught.value.code == "size_changed"


def test_the_same_source_gives_the_same_quality_within_the_encoders_scale(tmp_path: Path) -> None:
    info = probe(textured(tmp_path / "a.mp4", 20, width=160, num_frames=12))
    encoding = choose_encoding(info, EncoderSettings())
    chosen = choose_crf(info, encoding)
    assert chosen == choose_crf(info, encoding)
    assert 2 <= float(chosen.options["crf"]) <= 30 and float(chosen.options["crf"]) * 2 % 1 == 0
    assert {**chosen.options, "crf": ""} == {**encoding.options, "crf": ""}


def test_an_encoder_without_a_quality_stays_as_it_is(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mkv", Media(codec="ffv1", num_frames=4)))
    encoding = choose_encoding(info, EncoderSettings())
    assert choose_crf(info, encoding) is encoding
