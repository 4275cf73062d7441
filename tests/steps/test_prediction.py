"""Test predictions: each step's arithmetic follows the plan, and real masks cost less than the dry run's bound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.media_files import Media, make
from vace_batch.batch.dry_run import plan as estimate
from vace_batch.batch.identity import works_of
from vace_batch.costs import ByteRates, Calibration, CpuRates, Prices, Rate, Speed, Used
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.prediction import predict, prepare_cost
from vace_batch.steps.prepare import survey
from vace_batch.vace.profiles import profile

NOTHING = Rate(frame=0, mpx=0)
RATES = Calibration(
    cpu=CpuRates(
        scan=Rate(frame=1, mpx=0),
        look=Rate(frame=0, mpx=100),
        background=Rate(frame=10, mpx=0),
        build=Rate(frame=2, mpx=0),
        stitch=Rate(frame=3, mpx=0),
        quality=Rate(frame=4, mpx=0),
    ),
    bytes=ByteRates(masks=1e6, background=1e6, window=1e6, video=2.0),
    models={"tiny": Speed(call_s=5, transformer_s=0, vae_s=0)},
)


def job(path: Path, job_id: str = "a", **fields: object) -> Job:
    box = BoxKey(x=8, y=8, width=16, height=16)
    plain = Job(job_id=job_id, video_uri=str(path), task="removal", boxes=(box,), background="off")
    return replace(plain, **fields)  # type: ignore[arg-type]


def video(tmp_path: Path) -> Path:
    make(tmp_path / "clip.mp4", Media(num_frames=40))
    return tmp_path / "clip.mp4"


def test_each_step_is_its_rate_times_what_the_plan_has(tmp_path: Path) -> None:
    path = video(tmp_path)
    options = Options(calibration=RATES)
    plain, recovered = works_of(
        [job(path), job(path, background="auto")], str(tmp_path / "out"), options, str(tmp_path)
    )
    plan = survey(plain, MaskModels(), tmp_path, look=False)
    mpx = plan.size.width * plan.size.height / 1e6
    assert (plan.num_frames, plan.masked_frames, len(plan.windows)) == (40, 40, 2)
    found = predict(plain, plan)
    assert found["masks"].cpu_s == pytest.approx(40) and found["masks"].num_bytes == pytest.approx(40 * mpx * 1e6)
    assert found["background"] == Used() and prepare_cost(plain, plan) == found["masks"]
    assert found["build"].cpu_s == pytest.approx(2 * sum(p.window.stop - p.window.start for p in plan.windows))
    assert found["generate"].gpu_s == pytest.approx(10)
    size = plan.regions[0].size
    generated = sum(p.window.num_frames for p in plan.windows) * size.width * size.height
    assert found["generate"].num_bytes == pytest.approx(generated)
    assert found["stitch"].cpu_s == pytest.approx(120) and found["measure"].cpu_s == pytest.approx(160)
    assert found["stitch"].num_bytes == 2 * path.stat().st_size
    assert predict(plain, plan, plan.windows[:1])["generate"].gpu_s == pytest.approx(5)
    assert predict(recovered, plan)["background"].cpu_s == pytest.approx(400)
    assert prepare_cost(recovered, plan).cpu_s == pytest.approx(40 + 400)
    two = replace(
        plain, options=options.model_copy(update={"engine": options.engine.model_copy(update={"devices": 2})})
    )
    assert predict(two, plan)["generate"].gpu_s == pytest.approx(20)


def test_a_window_s_seconds_are_its_flop_times_the_speed(tmp_path: Path) -> None:
    speed = Speed(call_s=0.5, transformer_s=10, vae_s=20)
    options = Options(calibration=Calibration(models={"tiny": speed}))
    [work] = works_of([job(video(tmp_path))], str(tmp_path / "out"), options, str(tmp_path))
    plan = survey(work, MaskModels(), tmp_path, look=False)
    region, window = plan.regions[0], plan.windows[0].window
    transformer, vae = profile("tiny").window_parts(window.num_frames, region.size, work.sampling, guided=False)
    expected = 0.5 + 10 * transformer / 1e12 + 20 * vae / 1e12
    assert predict(work, plan, plan.windows[:1])["generate"].gpu_s == pytest.approx(expected)


def test_a_look_says_what_is_left_for_the_gpu(tmp_path: Path) -> None:
    path = video(tmp_path)
    jobs = tuple(job(path, name, background="auto") for name in ("a", "b"))
    manifest = Manifest(jobs=jobs, digest="d", uri=str(tmp_path / "m.parquet"))
    options = Options(calibration=RATES, prices=Prices(gpu_hour=3600, currency="EUR"))
    blind, seen = estimate(manifest, options), estimate(manifest, options, look=1)
    assert blind.used.gpu_s == 20 and blind.likely_gpu_s is None
    assert [clip.reason for clip in blind.clips] == ["at most", "at most"]
    # The clips' smooth ramps are bridged: nothing is left for the model of the one that was looked at.
    assert [clip.used.gpu_s for clip in seen.clips] == [0, 10] and seen.likely_gpu_s == 0
    assert [clip.state for clip in seen.clips] == ["todo", "todo"] and seen.clips[0].bound_gpu_s == 10
    told = seen.as_dict()
    assert told["cost"]["on_demand"] == pytest.approx(10, abs=0.1) and told["clips"][1]["gpu_s"] == 10
    assert set(told["steps"]) == {"masks", "background", "build", "generate", "stitch", "measure"}
    assert not list(tmp_path.glob("out*"))
