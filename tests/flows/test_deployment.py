"""Read prefect.yaml and infra/prefect with Prefect itself, then deploy them on a real server."""

from __future__ import annotations

import io
import json
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import kubernetes_validate
import prefect
import pytest
import yaml
from prefect.cli.deploy._config import _load_deploy_configs_and_actions
from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import Automation
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.templating import apply_values, find_placeholders
from rich.console import Console

from flows.hours import end_of_hours
from tests.flows.server import SetUp
from tests.infra.manifests import validate
from tests.infra.versions import VERSION

ROOT = Path(__file__).resolve().parents[2]
YAML = ROOT / "prefect.yaml"
INFRA = ROOT / "infra" / "prefect"
POOLS = {
    "vace-batch/archive": "vace-batch",
    "vace-batch/nightly": "vace-batch",
    "vace-batch-watch/incoming": "vace-batch",
    "vace-batch-retry/again": "vace-batch",
    "vace-batch/on-kubernetes": "vace-batch-kubernetes",
}
NIGHTLY = {"cron": "0 1 * * *", "timezone": "UTC"}
SCHEDULES = {"nightly": NIGHTLY, "on-kubernetes": NIGHTLY, "incoming": {"interval": timedelta(minutes=5)}}


@pytest.fixture(scope="module")
def deployments() -> dict[str, dict[str, Any]]:
    said = io.StringIO()
    configs, actions = _load_deploy_configs_and_actions(YAML, console=Console(file=said))
    assert said.getvalue() == ""
    assert actions == {"build": [], "push": [], "pull": None}
    return {config["name"]: config for config in configs}


def test_it_names_no_field_that_prefect_would_ignore() -> None:
    raw = yaml.safe_load(YAML.read_text())
    anchors = {"definitions"}
    assert set(raw) - anchors <= set(PrefectYamlModel.model_fields) | {
        field.alias for field in PrefectYamlModel.model_fields.values()
    }
    for deployment in raw["deployments"]:
        assert set(deployment) <= set(DeploymentConfig.model_fields)
    assert raw["prefect-version"] == prefect.__version__


@pytest.mark.parametrize("whole", POOLS)
def test_a_deployment_is_a_flow_with_its_parameters_and_one_at_a_time(
    deployments: dict[str, dict[str, Any]], whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    flow_name, name = whole.split("/")
    deployment = deployments[name]
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name == flow_name
    flow.validate_parameters(deployment["parameters"])
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    assert set(flow.parameters.required) <= set(deployment["parameters"])
    schedules = [_schedule_config_to_deployment_schedule(config) for config in deployment.get("schedules", [])]
    assert [schedule["active"] for schedule in schedules] == [False] * (name in SCHEDULES)
    for schedule in schedules:
        assert SCHEDULES[name].items() <= dict(schedule["schedule"]).items()
    assert deployment["work_pool"]["name"] == POOLS[whole]
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_the_hours_of_the_night_begin_when_its_schedule_fires(deployments: dict[str, dict[str, Any]]) -> None:
    parameters, (schedule,) = deployments["nightly"]["parameters"], deployments["nightly"]["schedules"]
    minute, hour = map(int, schedule["cron"].split()[:2])
    fires = datetime(2026, 3, 1, hour, minute, tzinfo=ZoneInfo(schedule["timezone"]))
    assert end_of_hours(parameters["hours"], parameters["timezone"], fires) == fires + timedelta(hours=6)
    assert end_of_hours(parameters["hours"], parameters["timezone"], fires - timedelta(seconds=1)) is None


def template(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INFRA / f"{kind}.json").read_text())
    return found


@pytest.mark.parametrize("kind", ["process", "kubernetes"])
def test_a_job_template_declares_each_variable_that_it_uses(kind: str) -> None:
    found = template(kind)
    used = {placeholder.name for placeholder in find_placeholders(found["job_configuration"])}
    assert used == set(found["variables"]["properties"])
    jsonschema.Draft202012Validator.check_schema(found["variables"])
    defaults = {
        name: value["default"] for name, value in found["variables"]["properties"].items() if "default" in value
    }
    jsonschema.validate(defaults, found["variables"])


def test_the_job_on_kubernetes_is_a_node_of_the_cluster_that_offers_nothing() -> None:
    found = template("kubernetes")
    values = {name: value.get("default") for name, value in found["variables"]["properties"].items()}
    manifest = apply_values(found["job_configuration"], values | {"command": ["prefect", "flow-run", "execute"]})[
        "job_manifest"
    ]
    pod = manifest["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["with-ray", "vace-batch-head-svc.vace-batch.svc:6379"]
    assert pod["containers"][0]["image"].startswith(f"vace-batch:{VERSION}-")
    assert (pod["serviceAccountName"], manifest["metadata"]["namespace"]) == ("vace-batch", "vace-batch")
    filled = filled_as_the_worker_does(manifest)
    validate(filled)
    pod["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
        validate(filled_as_the_worker_does(manifest))


def filled_as_the_worker_does(manifest: dict[str, Any]) -> dict[str, Any]:
    """Fill the template as the worker does: without variables that have no value."""
    filled: dict[str, Any] = json.loads(json.dumps(manifest))
    for place in (filled["metadata"], filled["spec"]["template"]["spec"]["containers"][0]):
        for name in [name for name, value in place.items() if value is None]:
            del place[name]
    filled["spec"]["template"]["spec"]["containers"][0]["env"] = []
    resources = filled["spec"]["template"]["spec"]["containers"][0]["resources"]
    for limits in resources.values():
        for name in [name for name, value in limits.items() if value is None]:
            del limits[name]
    return filled


def test_set_up_makes_pools_limits_automations_and_deployments_on_a_server_over_what_is_there(
    deployments: dict[str, dict[str, Any]], set_up: SetUp
) -> None:
    few = subprocess.run([INFRA / "set-up", "4"], env=set_up.environment, capture_output=True, text=True, check=False)
    assert few.returncode == 2 and "4 GPUs are fewer than gpu_actors (8) in prefect.yaml" in few.stderr
    with get_client(sync_client=True) as client:
        for name, limit in (("vace-batch", 1), ("vace-batch-kubernetes", 2)):
            pool = client.read_work_pool(name)
            assert (pool.concurrency_limit, pool.base_job_template) == (limit, template(pool.type))
        for whole, pool_name in POOLS.items():
            found, config = client.read_deployment_by_name(whole), deployments[whole.split("/")[1]]
            assert (found.work_pool_name, found.parameters) == (pool_name, config["parameters"])
            assert found.entrypoint == config["entrypoint"]
            assert found.concurrency_options is not None and found.global_concurrency_limit is not None
            assert {schedule.active for schedule in found.schedules} <= {False}
        automations: list[Automation] = client.request("POST", "/automations/filter", json={}).json()
    files = (INFRA / "automations.yaml", INFRA / "notifications.yaml")
    wanted = [automation["name"] for file in files for automation in yaml.safe_load(file.read_text())["automations"]]
    assert sorted(automation["name"] for automation in automations) == sorted(wanted)
