"""Run deployments on a real server: a schedule fires, a run is cancelled, files arrive, notifications are sent.

A schedule's runs have the real engine; the flows that the tests call have a stand-in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

from flows.batch import MAX_CONTINUED, OUT_OF_HOURS, batch
from flows.driving import IN_PART, WITH_FAILURES, drive, options_of
from flows.hours import end_of_hours
from flows.retry import retry
from flows.watch import NOTHING_NEW, watch
from tests.flows.server import ROOT, SetUp, wait_for, worker
from tests.flows.test_batch_flow import clip, manifest
from vace_batch.errors import UsageError
from vace_batch.ledger.ledger import Ledger
from vace_batch.ledger.summary import summarise
from vace_batch.manifest.reader import read_manifest
from vace_batch.report.explain import explain

ACTORS = {"cpu_actors": 1, "gpu_actors": 1}


@pytest.mark.parametrize(
    ("hours", "now", "ends"),
    [
        ("22:00-06:00", "2026-03-01T23:30", "2026-03-02T06:00"),
        ("22:00-06:00", "2026-03-01T05:59", "2026-03-01T06:00"),
        ("22:00-06:00", "2026-03-01T06:00", None),
        ("01:00-07:00", "2026-03-01T00:59", None),
        ("01:00-07:00", "2026-03-01T01:00", "2026-03-01T07:00"),
        ("08:00-08:00", "2026-03-01T07:59", "2026-03-01T08:00"),
    ],
)
def test_hours(hours: str, now: str, ends: str | None) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert end_of_hours(hours, "UTC", at) == (ends and datetime.fromisoformat(ends).replace(tzinfo=UTC))


def test_hours_are_by_the_wall_clock_of_their_place() -> None:
    # On 29 March 2026 clocks in Berlin go from two to three: that night is an hour shorter.
    at = datetime(2026, 3, 28, 22, 0, tzinfo=UTC)
    end = end_of_hours("23:00-06:00", "Europe/Berlin", at)
    assert end is not None and end.astimezone(UTC) == datetime(2026, 3, 29, 4, 0, tzinfo=UTC)
    for hours, zone, said in (("22-6", "UTC", "HH:MM-HH:MM"), ("22:00-06:00", "Mars", "Europe/Berlin")):
        with pytest.raises(UsageError, match=said):
            end_of_hours(hours, zone, at)


def test_settings_are_those_of_a_run_and_a_wrong_one_is_named() -> None:
    settings = {"attempts": {"max_attempts": 3}, "quality": {"seam": {"review": 4.0}}, "engine": {"storage": "fp8"}}
    options = options_of(settings, model="tiny")
    assert (options.attempts.max_attempts, options.quality.seam.review, options.engine.storage) == (3, 4.0, "fp8")
    with pytest.raises(UsageError, match=r"settings: attempts.max_attempts: .*; retries: "):
        options_of({"attempts": {"max_attempts": 0}, "retries": 2})


@pytest.mark.usefixtures("prefect_server", "ray_here", "stand_in")
def test_a_batch_works_in_its_hours_only_and_goes_on_in_the_next(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        clip(tmp_path / f"{name}.mp4", 40 + 60 * number)
    path, out = manifest(tmp_path, ["a", "b"]), tmp_path / "out"
    past = datetime.now(UTC) - timedelta(hours=2)
    early = batch(str(path), str(out), hours=f"{past:%H:%M}-{past + timedelta(hours=1):%H:%M}", return_state=True)
    assert early.name == OUT_OF_HOURS and not out.exists()

    @flow
    def until_one_is_done() -> Any:
        options = options_of(None, **ACTORS)
        over = lambda: bool(Ledger(str(out)).keys("done", "clip"))  # noqa: E731
        return drive(read_manifest(str(path)), str(out), options, shard_size=1, should_stop=over)

    first = until_one_is_done(return_state=True)
    assert first.name == IN_PART and first.result()["pending"] == 1
    before = (out / "videos" / "a.mp4").stat().st_mtime_ns
    rest = batch(str(path), str(out), hours="00:00-00:00", return_state=True, **ACTORS)
    assert rest.name == "Completed" and rest.result()["done"] == 2
    assert (out / "videos" / "a.mp4").stat().st_mtime_ns == before


@pytest.mark.usefixtures("ray_here", "stand_in")
def test_files_that_come_in_are_done_once_and_what_failed_is_told_and_tried_again(
    tmp_path: Path, set_up: SetUp
) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    box = '[{"x": 20.0, "y": 20.0, "width": 20.0, "height": 20.0}]'
    clip(tmp_path / "whole.mp4", 40)
    content = (tmp_path / "whole.mp4").read_bytes()

    def look() -> Any:
        return watch(str(inbox), str(out), columns={"boxes": box}, settle_s=0, settings=ACTORS, return_state=True)

    (inbox / "a.mp4").write_bytes(content[:100])
    assert look().name == NOTHING_NEW
    (inbox / "a.mp4").write_bytes(content)  # its upload is over
    (inbox / "broken.mp4").write_bytes(b"no video")
    assert look().name == NOTHING_NEW
    taken = look()
    assert taken.name == WITH_FAILURES and {**taken.result(), "windows": 0}["done"] == 1
    assert look().name == NOTHING_NEW
    assert [job["job_id"] for job in summarise(str(out)).of("failed")] == ["broken"]
    wait_for(lambda: any(WITH_FAILURES in text for text in set_up.told), "the webhook")
    assert "1 of 2 jobs done, 1 failed" in " ".join(set_up.told)

    again = retry(str(out), values={"dilate": "2px"}, return_state=True)
    assert (again.name, again.result()["done"], again.result()["failed"]) == (WITH_FAILURES, 1, 1)
    assert explain(str(out), "broken")["overrides"][0]["set"] == {"dilate": "2px"}
    made = Counter(path.parent.name for path in out.glob("artifacts/*/window-*/*"))
    assert set(made.values()) <= {1}


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_fails_at_once_is_told(set_up: SetUp, tmp_path: Path) -> None:
    state = batch(str(tmp_path / "none.parquet"), str(tmp_path / "out"), return_state=True)
    assert state.name == "Failed"
    wait_for(lambda: any("none.parquet" in text and "Failed" in text for text in set_up.told), "the webhook")


def test_a_run_that_falls_silent_has_crashed_and_is_continued_as_it_was_but_not_for_ever(
    set_up: SetUp, tmp_path: Path
) -> None:
    settings = {"attempts": {"max_attempts": 2}, "crf": 20}
    asked = {"output": "s3://elsewhere/out", "settings": settings, "hours": "20:00-04:00", "continued": 3}
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("vace-batch/on-kubernetes")  # no worker takes its runs here
        run = client.create_flow_run_from_deployment(deployment.id, parameters=deployment.parameters | asked)
        client.request("POST", f"/flow_runs/{run.id}/set_state", json={"state": {"type": "RUNNING"}, "force": True})
        quick = yaml.safe_load((ROOT / "infra/prefect/automations.yaml").read_text())["automations"][0]
        quick["trigger"]["within"] = 10  # the least that there is
        automation = client.request("POST", "/automations/", json=quick | {"name": "quick"}).json()["id"]
        client.request("POST", "/events", json=[heartbeat(run.id)])
        wait_for(lambda: client.read_flow_run(run.id).state_type == StateType.CRASHED, "silence", every_s=2)
        client.request("DELETE", f"/automations/{automation}")

        def others() -> Any:
            return [one for one in runs_of("vace-batch/on-kubernetes") if one["id"] != str(run.id)]

        (again,) = wait_for(others, "the automation")
    assert again["state_type"] == "SCHEDULED"
    assert again["parameters"] == deployment.parameters | asked | {"continued": 4}
    late = datetime.fromisoformat(again["expected_start_time"]) - datetime.now(UTC)
    assert timedelta(minutes=3) < late <= timedelta(minutes=5)
    with pytest.raises(UsageError, match="the 5 runs before this one crashed"):
        batch("m.parquet", str(tmp_path / "out"), continued=MAX_CONTINUED + 1)


def heartbeat(run: UUID) -> dict[str, Any]:
    """The event that a run of the batch flow sends every half minute."""
    flow = {"prefect.resource.id": "prefect.flow.x", "prefect.resource.role": "flow"}
    return {
        "id": str(uuid4()),
        "event": "prefect.flow-run.heartbeat",
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [flow | {"prefect.resource.name": "vace-batch"}],
    }


def runs_of(deployment: str) -> list[dict[str, Any]]:
    with get_client(sync_client=True) as client:
        wanted = {"deployments": {"name": {"any_": [deployment.split("/")[1]]}}, "sort": "EXPECTED_START_TIME_ASC"}
        found: list[dict[str, Any]] = client.request("POST", "/flow_runs/filter", json=wanted).json()
        return found


def test_a_schedule_fires_a_run_is_cancelled_and_the_next_one_goes_on(set_up: SetUp, tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]  # enough that a cancellation, which takes some seconds, cuts the run off
    for number, name in enumerate(names):
        clip(tmp_path / f"{name}.mp4", 40 + 30 * number, num_frames=40)
    path, out = manifest(tmp_path, names, background="off"), tmp_path / "out"
    now = datetime.now(UTC)
    hours = f"{now - timedelta(hours=1):%H:%M}-{now + timedelta(hours=3):%H:%M}"
    parameters = {"manifest": str(path), "output": str(out), "hours": hours, **ACTORS}
    ledger, nightly = Ledger(str(out)), "vace-batch/nightly"

    def ended() -> list[str]:
        return [run["state_type"] for run in runs_of(nightly) if run["state_type"] in ("CANCELLED", "COMPLETED")]

    log = tmp_path / "worker.log"
    with worker(set_up.environment, log), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(nightly).id
        schedule = {"schedule": {"interval": 15}, "active": True, "parameters": parameters}
        made = client.request("POST", f"/deployments/{deployment}/schedules", json=[schedule]).json()[0]["id"]
        wait_for(lambda: ledger.keys("done", "window"), "the first window of the scheduled run", every_s=0.05)
        (running,) = [run for run in runs_of(nightly) if run["state_type"] == "RUNNING"]
        assert running["auto_scheduled"] and running["parameters"]["hours"] == hours
        cancel = {"state": {"type": "CANCELLING"}}
        client.request("POST", f"/flow_runs/{running['id']}/set_state", json=cancel)
        wait_for(ended, "the end of the cancelled run")
        assert ended() == ["CANCELLED"], log.read_text()[-3000:]
        cut_off = summarise(str(out))
        before = {path: path.stat().st_mtime_ns for path in recorded(out)}
        assert cut_off.pending and before
        wait_for(lambda: "COMPLETED" in ended(), "a scheduled run that goes on")
        client.request("DELETE", f"/deployments/{deployment}/schedules/{made}")
    assert summarise(str(out)).done == len(names)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in recorded(out)}.items()


def recorded(out: Path) -> Iterator[Path]:
    """Keys of done windows."""
    return (out / "ledger" / "done").glob("*/window-*.json")
