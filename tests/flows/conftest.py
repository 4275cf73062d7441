from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
import ray
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from tests.flows.server import BIN, PATIENCE_S, ROOT, SetUp, listener
from tests.support import s3_server
from tests.support.stand_in_engine import with_stand_in
from vace_batch.batch import pools
from vace_batch.cluster.connection import start


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real Prefect server with its own database and a quick scheduler; yields the address of its API."""
    home = tmp_path_factory.mktemp("prefect")
    (port,) = s3_server.free_ports(1)
    environment = os.environ | {"PREFECT_HOME": str(home), "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1"}
    environment |= {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    api = f"http://127.0.0.1:{port}/api"
    with (
        s3_server.running(command, home / "server.log", port, PATIENCE_S, environment),
        temporary_settings({PREFECT_API_URL: api, PREFECT_HOME: home}),
    ):
        yield api
        # Or this process would complain at its end that nobody takes the rest.
        for sender in (APILogWorker, EventsWorker):
            sender.drain_all(timeout=30)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace VACE's engine, in flows that this process runs."""
    monkeypatch.setattr(pools, "pools_of", with_stand_in(pools.pools_of))


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """Connect this process to a Ray that its flows use and keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        start(num_cpus=4, include_dashboard=False, dashboard_host="127.0.0.1", object_store_memory=200 << 20)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def set_up(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SetUp]:
    """Run infra/prefect/set-up on the server, over an existing pool; once per session, as it takes some 20 s."""
    environment = os.environ | {
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(tmp_path_factory.mktemp("client")),
        "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }
    told: list[str] = []
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="vace-batch", type="process", base_job_template={}))
    with listener(told) as url:
        command = [ROOT / "infra/prefect/set-up", "16"]
        done = subprocess.run(
            command, env=environment | {"VACE_BATCH_WEBHOOK": url}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield SetUp(environment=environment, told=told)
