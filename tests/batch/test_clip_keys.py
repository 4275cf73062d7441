"""Test that keys and outputs of clips change with every setting that decides pixels, and with no other setting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.support.media_files import Media, make
from vace_batch.batch.identity import works_of
from vace_batch.manifest.job import BoxKey, Job
from vace_batch.masks.models import MaskModels
from vace_batch.options import EngineSettings, Options
from vace_batch.steps.prepare import survey
from vace_batch.storage import files as storage

BOX = BoxKey(x=8, y=8, width=16, height=16)


def job(path: Path, job_id: str = "a", **fields: object) -> Job:
    """The clips' smooth ramps would be bridged and leave no window: so without their background."""
    plain = Job(job_id=job_id, video_uri=str(path), task="removal", boxes=(BOX,), background="off")
    return replace(plain, **fields)  # type: ignore[arg-type]


def video(path: Path, media: Media) -> Path:
    make(path, media)
    return path


def test_identity_follows_what_decides_pixels_and_nothing_else(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.mp4", Media())
    base = job(path)

    def keys(changed: Job, options: Options | None = None) -> tuple[str, str, str]:
        [work] = works_of([changed], str(tmp_path / "out"), options or Options(), str(tmp_path))
        plan = survey(work, MaskModels(), tmp_path)
        return work.prep_key, work.window_key(plan.windows[0], plan.regions[0]), work.clip_key

    prep, window, clip = keys(base)
    assert keys(replace(base, priority=5, row=9)) == (prep, window, clip)
    assert keys(replace(base, job_id="b"))[:2] == (prep, window) and keys(replace(base, job_id="b"))[2] != clip
    assert keys(replace(base, prompt="a lawn"))[0] == prep and keys(replace(base, prompt="a lawn"))[1] != window
    assert keys(replace(base, seed=7))[1] != window
    moved = replace(base, boxes=(replace(BOX, x=9.0),))
    assert all(one != other for one, other in zip(keys(moved), (prep, window, clip), strict=True))
    assert keys(base, Options(feather_px=5)) == (prep, window, keys(base, Options(feather_px=5))[2])
    assert keys(base, Options(cpu_actors=3, max_batch=4, engine=EngineSettings(vae_latents=3))) == (prep, window, clip)
    exact = Options(engine=EngineSettings(deterministic=True))
    assert keys(base, exact)[0] == prep and len({window, clip, *keys(base, exact)[1:]}) == 4
    rounded = exact.model_copy(update={"engine": EngineSettings(deterministic=True, vae_latents=3)})
    assert keys(base, rounded)[1] != keys(base, exact)[1], "rounding counts where bytes are promised"
    found = replace(base, targets=("person",), boxes=())
    by_detector = [works_of([found], str(tmp_path / "out"), options, str(tmp_path)) for options in (Options(), exact)]
    assert len({work.prep_key for [work] in by_detector}) == 2, "the detector's precision"
    copied = tmp_path / "elsewhere.mp4"
    copied.write_bytes(path.read_bytes())
    assert keys(replace(base, video_uri=str(copied))) == (prep, window, clip)
    make(path, Media(cut_at=3))
    assert all(one != other for one, other in zip(keys(base), (prep, window, clip), strict=True))


def test_outputs_keep_the_container_and_stay_inside(tmp_path: Path) -> None:
    path = video(tmp_path / "CLIP.MP4", Media())
    bare = tmp_path / "no_extension"
    bare.write_bytes(video(tmp_path / "x.mkv", Media()).read_bytes())
    works = works_of([job(path, "../../escape"), job(bare, "ok")], str(tmp_path / "out"), Options(), str(tmp_path))
    assert (
        works[0].output.startswith("videos/") and works[0].output.endswith(".mp4") and works[0].output.count("/") == 1
    )
    assert works[1].output == "videos/ok.mkv"
    [placed] = works_of([job(path, output_uri="series/ep1.mov")], str(tmp_path / "out"), Options(), str(tmp_path))
    assert placed.output == "videos/series/ep1.mov"
    assert not storage.exists(str(tmp_path / "out" / "videos"))
