from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from vace_batch import log


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_line_carries_run_clip_and_window(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level="info", json_lines=True)
    logger = log.get_logger("vace_batch.stitch.paste")
    with log.bind(run="r1"):
        with log.bind(clip="c1", window="w1"):
            logger.info("stitched %d", 3, extra={"seconds": 1.5})
        logger.info("next")
    logger.info("outside")
    inside, after, outside = json_lines(capsys)
    assert {**inside, "time": ""} == {
        "time": "",
        "level": "info",
        "logger": "vace_batch.stitch.paste",
        "message": "stitched 3",
        "run": "r1",
        "clip": "c1",
        "window": "w1",
        "seconds": 1.5,
    }
    assert after["run"] == "r1" and "clip" not in after
    assert "run" not in outside


def test_what_ray_adds_to_every_record_stays_off_the_line() -> None:
    record = logging.makeLogRecord({"name": "x", "msg": "here", "_ray_timestamp_ns": 1, "frames": 3})
    line = json.loads(log.JsonFormatter().format(record))
    assert "_ray_timestamp_ns" not in line and line["frames"] == 3


def test_fields_are_unbound_when_the_block_raises() -> None:
    with pytest.raises(RuntimeError), log.bind(clip="c1"):
        raise RuntimeError
    assert log.bound_fields() == {}


def test_none_takes_a_field_off() -> None:
    with log.bind(run="r1", clip="c1"), log.bind(clip=None):
        assert log.bound_fields() == {"run": "r1"}


def test_threads_do_not_see_each_others_fields() -> None:
    with log.bind(clip="mine"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(log.bound_fields).result() == {}


def test_a_message_of_several_lines_stays_one_line_and_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level="info", json_lines=True)
    try:
        raise ValueError("größer\nals 1")
    except ValueError:
        log.get_logger("x").warning("two\nlines", exc_info=True)
    (line,) = json_lines(capsys)
    assert line["message"] == "two\nlines" and line["logger"] == "vace_batch.x"
    assert line["error"].startswith("Traceback") and line["error"].endswith("ValueError: größer\nals 1")


def test_configuring_twice_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level="info", json_lines=True)
    log.configure(level="info", json_lines=False)
    with log.bind(clip="c1"):
        log.get_logger("x").info("once")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("info clip=c1 once")


def test_level_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(log.LEVEL_VARIABLE, "warning")
    log.configure(json_lines=True)
    log.get_logger("x").info("no")
    log.get_logger("x").warning("yes")
    assert [line["message"] for line in json_lines(capsys)] == ["yes"]


def test_wrong_level_and_format_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="VACE_BATCH_LOG_LEVEL: expected .* got 'loud'"):
        log.configure(level="loud")
    monkeypatch.setenv(log.FORMAT_VARIABLE, "xml")
    with pytest.raises(ValueError, match="VACE_BATCH_LOG_FORMAT: expected json or text, got 'xml'"):
        log.configure()


def test_third_parties_speak_from_warnings_up_and_a_stricter_setting_stays() -> None:
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    log.hush()
    assert logging.getLogger("httpx").level == logging.WARNING
    assert logging.getLogger("ultralytics").level == logging.ERROR


def test_changes_to_come_are_hushed_of_third_parties_and_not_of_the_whole_process() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log.hush()
        for module in ("torch", "diffusers.models", "torchless", "archive.tool"):
            warnings.warn_explicit("soon", FutureWarning, "file.py", 1, module=module, registry={})
            warnings.warn_explicit("now", UserWarning, "file.py", 1, module=module, registry={})
    shown = [str(warning.message) for warning in caught]
    assert shown == ["now", "now", "soon", "now", "soon", "now"]


def test_telemetry_is_off_unless_the_user_says_otherwise() -> None:
    environ = {"HF_HUB_DISABLE_TELEMETRY": "0"}
    log.quiet_environment(environ)
    assert environ["HF_HUB_DISABLE_TELEMETRY"] == "0"
    assert environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert (environ["DO_NOT_TRACK"], environ["RAY_USAGE_STATS_ENABLED"]) == ("1", "0")


def test_ray_obeys_the_switch() -> None:
    code = (
        "from vace_batch.log import quiet_environment; quiet_environment()\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "print(usage_stats_enabled())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_the_log_needs_nothing_but_the_standard_library() -> None:
    code = "import sys, vace_batch.log; print({'torch', 'ray', 'numpy', 'prefect'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
