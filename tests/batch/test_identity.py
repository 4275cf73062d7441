"""Test identities of a batch's jobs: each batch reads a model once, and the next batch reads it again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from vace_batch import plan
from vace_batch.batch import identity
from vace_batch.batch.identity import Model, another_attempt, model_reader, works_of
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.manifest.video_suffixes import VIDEO_SUFFIXES
from vace_batch.options import Options
from vace_batch.quality.remedies import Remedy
from vace_batch.vace.profiles import model_files

BOX = BoxKey(x=8, y=8, width=16, height=16)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder of which planning reads the configuration, with weights that it only digests."""
    source, folder = model_files("tiny"), tmp_path / "model"
    for name in ("model_index.json", "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(source.joinpath(*name.split("/"))), folder / name)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"first")
    return folder


def jobs(folder: Path, count: int = 1) -> tuple[Job, ...]:
    clip = folder / "clip.mp4"
    if not clip.exists():
        make(clip, Media(num_frames=3))
    job = Job(job_id="a", video_uri=str(clip), task="removal", boxes=(BOX,), background="off")
    return tuple(replace(job, job_id=f"job-{number}") for number in range(count))


def test_a_model_folder_that_changes_between_two_plans_changes_their_revision(tmp_path: Path, model: Path) -> None:
    options, out = Options(model=str(model)), str(tmp_path / "out")
    [first] = works_of(jobs(tmp_path), out, options, str(tmp_path))
    (model / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"second")
    [second] = works_of(jobs(tmp_path), out, options, str(tmp_path))
    assert second.revision != first.revision and second.clip_key != first.clip_key

    attempt = another_attempt(first, Remedy(name="seed", job=replace(first.job, seed=7), model=str(model)), "a.mp4")
    assert attempt.revision == second.revision


def test_costs_follow_the_configuration_of_the_model(tmp_path: Path, model: Path) -> None:
    manifest = Manifest(jobs=jobs(tmp_path), digest="d", uri=str(tmp_path / "m.parquet"))
    options = Options(model=str(model))
    before = plan(manifest, options).used.gpu_s
    config = json.loads((model / "transformer" / "config.json").read_text())
    (model / "transformer" / "config.json").write_text(json.dumps({**config, "num_layers": 40 * config["num_layers"]}))
    assert plan(manifest, options).used.gpu_s > 1.5 * before


def test_a_batch_reads_each_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    tiny = identity.read_model("tiny")

    def read(ref: str) -> Model:
        asked.append(ref)
        return tiny

    monkeypatch.setattr(identity, "read_model", read)
    reader = model_reader()
    assert [reader("a"), reader("b"), reader("a")] == [tiny] * 3 and asked == ["a", "b"]
    model_reader()("a")
    assert asked == ["a", "b", "a"]


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_an_output_has_the_suffix_of_its_source(tmp_path: Path, suffix: str) -> None:
    [job] = jobs(tmp_path)
    shutil.copy(job.video_uri, tmp_path / f"film{suffix}")
    [work] = works_of([replace(job, video_uri=str(tmp_path / f"film{suffix}"))], "", Options(), str(tmp_path))
    assert work.output == f"videos/job-0{suffix}"


def test_a_relative_output_folder_is_absolute_for_workers_and_decides_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative, whole = (works_of(jobs(tmp_path), out, Options(), str(tmp_path))[0] for out in ("out", "/elsewhere/out"))
    assert relative.out == str(tmp_path / "out") and whole.out == "/elsewhere/out"
    assert (relative.prep_key, relative.clip_key) == (whole.prep_key, whole.clip_key)
    [bucket] = works_of(jobs(tmp_path), "memory://out", Options(), str(tmp_path))
    assert bucket.out == "memory://out"
