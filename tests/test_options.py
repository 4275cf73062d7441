"""Settings of the engine: they reach the GPU pool, and those that change pixels enter the identity of a window."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.media_files import Media, make
from vace_batch.batch.batch import Batch, open_batch
from vace_batch.batch.pools import pools_of
from vace_batch.cli.app import app
from vace_batch.errors import UsageError
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.options import EngineSettings, Options


def batch(folder: Path, **settings: object) -> Batch:
    clip = folder / "clip.mp4"
    if not clip.exists():
        make(clip, Media(num_frames=3))
    box = BoxKey(x=8, y=8, width=16, height=16)
    jobs = tuple(
        Job(job_id=name, video_uri=str(clip), task="removal", boxes=(box,), prompt=name, negative_prompt=negative)
        for name, negative in (("a", None), ("b", "fog"), ("a2", "fog"))
    )
    options = Options(engine=EngineSettings.model_validate(settings))
    return open_batch(Manifest(jobs=jobs, digest="d", uri=str(folder / "m.parquet")), str(folder / "out"), options)


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"storage": "fp8"}, {"attention": "sage"}])
def test_what_changes_pixels_is_in_the_identity_and_in_the_record(tmp_path: Path, change: dict[str, str]) -> None:
    plain, changed = batch(tmp_path).works[0], batch(tmp_path, **change).works[0]
    assert changed.clip_key != plain.clip_key and changed.prep_key == plain.prep_key
    assert plain.settings["engine"] == {} and changed.settings["engine"] == change


def test_what_changes_nothing_is_not_in_the_identity(tmp_path: Path) -> None:
    plain = batch(tmp_path).works[0]
    exact = batch(tmp_path, compile=True, offload="group", text_encoder="keep", vae_latents=4, max_batch_tokens=9)
    assert exact.works[0].clip_key == plain.clip_key and exact.works[0].settings == plain.settings


def test_the_gpu_pool_gets_the_settings_and_every_prompt_once(tmp_path: Path) -> None:
    opened = batch(tmp_path, offload="group")
    arguments = pools_of(opened.options, 1, opened)[1].setup_args
    assert arguments["settings"] == EngineSettings(offload="group")
    assert arguments["texts"] == {"tiny": ("a", "", "b", "fog", "a2")}
    assert arguments["prompts_uri"] == str(tmp_path / "out" / "prompts")


def test_the_command_line_names_what_is_wrong_with_a_setting(tmp_path: Path) -> None:
    given = ["run", "m.parquet", "-o", str(tmp_path), "--engine", "dtype=int4", "--engine", "speed=9"]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, UsageError)
    assert (
        "dtype: Input should be 'auto'" in str(error) and "speed: Extra" in str(error) and "vae_latents" in str(error)
    )
