"""Parse texts of the command line into options, and refuse wrong ones with the expected form."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vace_batch.cli.options import ACTORS, AFTERWARDS, BOUNDS, COSTS, FINDERS, PIXELS, PLACES, with_options
from vace_batch.cli.parsing import parse_limits, parse_pickles, parse_presets
from vace_batch.costs import Calibration
from vace_batch.errors import UsageError
from vace_batch.manifest.job import Job, Sampling
from vace_batch.manifest.presets import with_preset
from vace_batch.options import Options
from vace_batch.vace.profiles import profile


def test_a_runs_values_for_a_preset_reach_its_rows_and_lose_against_theirs() -> None:
    given = ["fast:num_inference_steps=8,flow_shift=3", "fast:mask_rule=nearest", "removal:guidance_scale=2.5"]
    options = Options.model_validate_json(Options(presets=parse_presets(given)).as_json())
    job = Job(job_id="j", video_uri="v.mp4", task="restyle", preset="fast", sampling=Sampling(flow_shift=4.0))
    job = with_preset(job, options.presets)
    sampling = profile("tiny").sampling(job.task, job.sampling)
    assert (sampling.num_inference_steps, sampling.flow_shift, sampling.mask_rule) == (8, 4.0, "nearest")
    assert sampling.guidance_scale == 1.0, "the preset's own"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slow:flow_shift=3", "expected PRESET:NAME=VALUE.* of standard, .*, got 'slow:flow_shift=3'"),
        ("fast", "expected PRESET:NAME=VALUE"),
        ("fast:", "expected NAME=VALUE with NAME of num_inference_steps, .*, got ''"),
        ("fast:steps=8", "expected NAME=VALUE with NAME of num_inference_steps, .*, got 'steps=8'"),
        ("fast:num_inference_steps=8.5", "num_inference_steps: expected a value of type int64, got '8.5'"),
        (
            "fast:flow_shift=99,num_inference_steps=0",
            "flow_shift: expected 0.1..50, got 99.0; --preset fast.num_",
        ),
        ("fast:mask_rule=mean", "fast.mask_rule: expected one of nearest, max4, got 'mean'"),
    ],
)
def test_a_wrong_value_says_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_presets([text])


@pytest.mark.parametrize("text", ["max_frames=0", "frames=9", "max_pixels"])
def test_a_limit_that_is_none_says_which_there_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"--limit: .*settings: max_bytes, max_pixels, max_duration_s"):
        parse_limits([text])


def test_a_digest_that_is_none_allows_nothing() -> None:
    assert parse_pickles(["  " + "AB" * 32]) == ("ab" * 32,)
    for text in ("ab" * 31, "gh" * 32, ""):
        with pytest.raises(UsageError, match="64 hex digits"):
            parse_pickles([text])


def test_what_a_group_was_given_reaches_the_command(tmp_path: Path) -> None:
    heard: list[tuple[str, Options, bool]] = []
    app = typer.Typer()

    @app.command()
    @with_options(*FINDERS, *PLACES, *PIXELS, *ACTORS, *AFTERWARDS, *COSTS, *BOUNDS)
    def work(name: str, options: Options, loud: bool = False) -> None:
        heard.append((name, options, loud))

    (tmp_path / "rates.json").write_text(Calibration(machine="m").model_dump_json())
    words = f"""clip --price gpu_hour=2.5 --calibration {tmp_path}/rates.json
        --max-gpu-hours 2 --loud --detector d --segmenter s --tracker botsort --weights w --allow-root {tmp_path}
        --allow-pickle {"AB" * 32} --model m --depth e --pose p --lora /l.safetensors=0.5 --preset fast:flow_shift=3
        --engine dtype=float32 --detect-every 2 --crf 9 --feather-px 5 --cpu-actors 3 --gpu-actors 2 --min-cpu-actors 1
        --min-gpu-actors 0 --max-batch 7 --keep-masks png --quality blur=0.5 --retries 2 --retry-model big
        --limit max_frames=9 --payload-mb 64 --unit-time-limit 60 --expect-found"""
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    ((name, options, loud),) = heard
    assert (name, loud) == ("clip", True)
    left = [field for field, value in Options() if getattr(options, field) == value]
    assert not left, f"nothing said, or not heard: {left}"
    CliRunner().invoke(app, ["clip"])
    assert heard[1] == ("clip", Options(), False)
