"""prefect.yaml as Prefect itself reads it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import prefect
import pytest
import yaml
from prefect.cli.deploy._config import _load_deploy_configs_and_actions
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.flows import load_flow_from_entrypoint
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
YAML = ROOT / "prefect.yaml"


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    said = io.StringIO()
    configs, actions = _load_deploy_configs_and_actions(YAML, console=Console(file=said))
    assert said.getvalue() == ""
    assert actions == {"build": [], "push": [], "pull": None}
    (only,) = configs
    return only


def test_it_names_no_field_that_prefect_would_ignore() -> None:
    raw = yaml.safe_load(YAML.read_text())
    assert set(raw) <= set(PrefectYamlModel.model_fields) | {
        field.alias for field in PrefectYamlModel.model_fields.values()
    }
    assert set(raw["deployments"][0]) <= set(DeploymentConfig.model_fields)
    assert raw["prefect-version"] == prefect.__version__


def test_the_entrypoint_is_the_flow_and_takes_the_parameters(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name == "vace-batch"
    assert flow.validate_parameters(deployment["parameters"])["shard_size"] == 200
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    assert set(flow.parameters.required) <= set(deployment["parameters"])


def test_the_schedule_is_nightly_and_waits_to_be_switched_on(deployment: dict[str, Any]) -> None:
    (config,) = deployment["schedules"]
    schedule = _schedule_config_to_deployment_schedule(config)
    assert (schedule["schedule"].cron, schedule["schedule"].timezone) == ("0 1 * * *", "UTC")
    assert schedule["active"] is False


def test_runs_queue_one_at_a_time_in_the_pool(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] == "vace-batch"
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
