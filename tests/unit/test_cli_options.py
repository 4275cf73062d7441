"""What the words of a command line mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from vace_batch import profiles
from vace_batch.cli_options import parse_pickles, parse_presets
from vace_batch.config import Options
from vace_batch.errors import UsageError
from vace_batch.job import Job, Sampling


def test_a_runs_values_for_a_preset_reach_its_rows_and_lose_against_theirs() -> None:
    given = ["fast:num_inference_steps=8,flow_shift=3", "fast:mask_rule=nearest", "removal:guidance_scale=2.5"]
    options = Options.model_validate_json(Options(presets=parse_presets(given)).as_json())
    job = Job(job_id="j", video_uri="v.mp4", task="restyle", preset="fast", sampling=Sampling(flow_shift=4.0))
    job = profiles.with_preset(job, options.presets)
    sampling = profiles.profile("tiny").sampling(job.task, job.sampling)
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


def test_a_digest_that_is_none_allows_nothing() -> None:
    assert parse_pickles(["  " + "AB" * 32]) == ("ab" * 32,)
    for text in ("ab" * 31, "gh" * 32, ""):
        with pytest.raises(UsageError, match="64 hex digits"):
            parse_pickles([text])
