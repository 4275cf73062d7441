"""Test the manifests of infra/kuberay: complete, strict, and scheduled by Ray's own scheduler as intended."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from tests.infra.kustomize import Manifest, build
from tests.infra.manifests import CRDS, cluster_spec, command_faults, definition_faults, faults, groups
from tests.infra.versions import INFRA, ROOT
from vace_batch.batch.pools import pools_of
from vace_batch.cluster.ray_cluster import bundle_of
from vace_batch.options import Options

CLOUDS = ("aws", "gcp", "on-premises")
FOLDERS = [f"{kind}/{cloud}" for kind in ("overlays", "jobs") for cloud in CLOUDS]
needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's definitions are not in {CRDS}")


def manifests(folder: str) -> list[Manifest]:
    return deepcopy(build(INFRA / "kuberay" / folder))


def the_ray(found: list[Manifest]) -> Manifest:
    (only,) = [manifest for manifest in found if cluster_spec(manifest)]
    return only


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_overlay_is_complete(folder: str) -> None:
    assert faults(manifests(folder)) == []


@needs_crds
@pytest.mark.parametrize("folder", FOLDERS)
def test_each_overlay_is_what_the_definitions_say(folder: str) -> None:
    assert definition_faults(the_ray(manifests(folder))) == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which has kustomize in it, is not installed")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_itself_makes_the_same(folder: str) -> None:
    command = ["kubectl", "kustomize", str(INFRA / "kuberay" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs = list(yaml.safe_load_all(done.stdout))

    def key(manifest: Manifest) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    assert sorted(theirs, key=key) == sorted(manifests(folder), key=key)


def test_a_job_has_the_cluster_of_its_overlay() -> None:
    for cloud in CLOUDS:
        job = the_ray(manifests(f"jobs/{cloud}"))
        assert cluster_spec(job) == cluster_spec(the_ray(manifests(f"overlays/{cloud}")))


# --- each fault, put in ----------------------------------------------------------------------------------------------

WORKER = "spec.workerGroupSpecs.0"
GPU = "spec.workerGroupSpecs.1"
POD = f"{WORKER}.template.spec"
CONTAINER = f"{POD}.containers.0"
GONE = object()


def put(manifest: Manifest, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    place: Any = manifest
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    if value is GONE:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value


@needs_crds
@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.rayVerson", "2.60.0", "'rayVerson' was unexpected"),
        (f"{WORKER}.maxReplica", 3, "'maxReplica' was unexpected"),
        (f"{WORKER}.minReplicas", "0", "'0' is not of type 'integer'"),
        (f"{WORKER}.idleTimeoutSecond", 3, "'idleTimeoutSecond' was unexpected"),
        ("spec.autoscalerOptions.version", "v3", "'v3' is not one of"),
        ("spec.autoscalerOptions.upscalingMode", "Fast", "'Fast' is not one of"),
        (f"{CONTAINER}.imagee", "x", "'imagee' was unexpected"),
        (f"{POD}.terminationGracePeriod", 60, "'terminationGracePeriod' was unexpected"),
        (f"{WORKER}.rayStartParams.num-cpus", 4, "4 is not of type 'string'"),
        ("spec.headGroupSpec.template", GONE, "'template' is a required property"),
    ],
)
def test_the_definitions_find_what_is_put_into_a_cluster(path: str, value: Any, said: str) -> None:
    cluster = the_ray(manifests("overlays/aws"))
    put(cluster, path, value)
    assert any(said in fault for fault in definition_faults(cluster)), definition_faults(cluster)


@needs_crds
@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.backOffLimit", 2, "'backOffLimit' was unexpected"),
        ("spec.entrypoint", ["vace-batch"], "is not of type 'string'"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.priority", "high", "'high' is not of type 'integer'"),
    ],
)
def test_the_definitions_find_what_is_put_into_a_job(path: str, value: Any, said: str) -> None:
    job = the_ray(manifests("jobs/gcp"))
    put(job, path, value)
    assert any(said in fault for fault in definition_faults(job)), definition_faults(job)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (f"{WORKER}.minReplicas", 9, "expected minReplicas <= replicas <= maxReplicas"),
        (f"{WORKER}.replicas", 9, "expected minReplicas <= replicas <= maxReplicas"),
        (f"{WORKER}.maxReplicas", 0, "expected minReplicas <= replicas <= maxReplicas"),
        (f"{GPU}.groupName", "mask-cpu", "two groups are named mask-cpu"),
        ("spec.rayVersion", "2.59.0", "rayVersion 2.59.0, expected 2.60.0"),
        ("spec.autoscalerOptions.version", "v1", "not v2"),
        ("spec.headGroupSpec.rayStartParams.num-cpus", "2", "the head offers CPUs"),
        (f"{WORKER}.rayStartParams.num-cpu", "4", "ray start has no --num-cpu"),
        (f"{WORKER}.rayStartParams.num-cpus", "8", "Ray is told 8 CPUs, the pod asks for 4"),
        (f"{CONTAINER}.resources.requests", {"memory": "1Gi"}, "the pod asks for None"),
        (f"{GPU}.template.spec.containers.0.resources.limits", {"memory": "1Gi"}, "requests 1, limits None"),
        (f"{CONTAINER}.image", "vace-batch:0.0.9-cpu", "expected vace-batch:0.1.0"),
        (f"{GPU}.template.spec.containers.0.image", "vace-batch:0.1.0-cpu", "on a GPU"),
        (f"{POD}.terminationGracePeriodSeconds", 30, "killed while it drains"),
        (f"{CONTAINER}.lifecycle", {}, "no drain-node before it stops"),
        (f"{CONTAINER}.volumeMounts.0.name", "cash", "mount of cash: no such volume"),
        (f"{CONTAINER}.volumeMounts.0.mountpath", "/x", "mountpath"),
        (f"{CONTAINER}.resources.requests.cpu", "4 cores", "4 cores"),
        (f"{POD}.serviceAccountName", "vace-bach", "ServiceAccount vace-bach is neither made"),
        (f"{CONTAINER}.envFrom.0.configMapRef.name", "vace", "ConfigMap vace is neither made"),
        (f"{CONTAINER}.envFrom.0", {"secretRef": {"name": "keys"}}, "Secret keys is neither made"),
        ("spec.headGroupSpec.template.metadata.labels", {}, "the budget vace-batch-head meets no pod"),
        (f"{WORKER}.minReplicas", GONE, "minReplicas"),
    ],
)
def test_our_own_checks_find_what_no_definition_sees(path: str, value: Any, said: str) -> None:
    found = manifests("overlays/aws")
    put(the_ray(found), path, value)
    try:
        said_of_it = faults(found)
    except KeyError as error:  # a required field that is not there: the definitions have said it
        said_of_it = [str(error)]
    assert any(said in fault for fault in said_of_it), said_of_it


def test_gke_gives_a_spot_pod_fifteen_seconds() -> None:
    found = manifests("overlays/gcp")
    put(the_ray(found), f"{CONTAINER}.lifecycle.preStop.exec.command", ["drain-node", "25"])
    assert any("GKE gives a spot node's pods 15" in fault for fault in faults(found))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.submissionMode", "K8sJob", "unknown submissionMode"),
        ("spec.shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished without"),
        ("spec.clusterSelector", {"ray.io/cluster": "x"}, "clusterSelector with a cluster of its own"),
        ("spec.entrypoint", "vace-batch run m -o o", "no shell line"),
        ("spec.entrypoint", "sh -c 'vace-batch run m --outt o'", "--outt"),
        ("spec.entrypoint", "sh -c 'vace-batch runn m -o o'", "no such command"),
    ],
)
def test_our_own_checks_find_what_is_wrong_with_a_job(path: str, value: Any, said: str) -> None:
    found = manifests("jobs/aws")
    put(the_ray(found), path, value)
    assert any(said in fault for fault in faults(found)), faults(found)


def test_what_the_resolver_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\npatchesJson6902: []\n")
    with pytest.raises(ValueError, match="patchesJson6902.* is not understood here"):
        build(tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: []\npatches: [{target: {kind: Pod}, patch: '[]'}]\n")
    with pytest.raises(ValueError, match="meets nothing"):
        build(tmp_path)


# --- what Ray does with it -------------------------------------------------------------------------------------------


def launched(spec: dict[str, Any], bundles: list[dict[str, float]], short: tuple[str, ...] = ()) -> dict[str, int]:
    """Return the nodes that autoscaler v2 starts for these actors; groups in `short` have no capacity."""
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "x"}, "spec": spec})
    nodes = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=node["min_workers"],
            max_worker_nodes=node["max_workers"],
            priority=node.get("priority", 0),
            resources=node["resources"],
        )
        for name, node in config["available_node_types"].items()
        if name != "headgroup"
    }
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=nodes,
        max_num_nodes=config["max_workers"],
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(one) for one in bundles]),
        cloud_resource_availabilities=dict.fromkeys(short, 0.0),
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert not reply.infeasible_resource_requests
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def spec_of(cloud: str) -> dict[str, Any]:
    spec = cluster_spec(the_ray(manifests(f"overlays/{cloud}")))
    assert spec is not None
    return spec


def bundles_of(cpu_actors: int, gpu_actors: int) -> list[dict[str, float]]:
    cpu, gpu = pools_of(Options(), machine_gpus=8)
    return [bundle_of(cpu)] * cpu_actors + [bundle_of(gpu)] * gpu_actors


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_asks_for_spot_first_and_puts_masks_on_machines_without_a_gpu(cloud: str) -> None:
    assert launched(spec_of(cloud), bundles_of(8, 3)) == {"mask-cpu": 2, "vace-gpu-spot": 3}
    assert launched(spec_of(cloud), bundles_of(4, 0)) == {"mask-cpu": 1}


def test_without_spot_capacity_on_demand_machines_come() -> None:
    more = launched(spec_of("aws"), bundles_of(0, 10))
    assert more == {"vace-gpu-spot": 8, "vace-gpu-ondemand": 2}, "what the spot group may not have any more"


def test_on_premises_there_is_no_spot() -> None:
    assert launched(spec_of("on-premises"), bundles_of(5, 2)) == {"mask-cpu": 2, "vace-gpu-ondemand": 2}


def test_without_priorities_spot_would_not_come_first() -> None:
    spec = deepcopy(spec_of("aws"))
    for group in spec["workerGroupSpecs"]:
        group["priority"] = 10 if group["groupName"] == "vace-gpu-ondemand" else 0
    assert launched(spec, bundles_of(0, 1)) == {"vace-gpu-ondemand": 1}


def test_the_deployment_on_kubernetes_asks_for_no_more_actors_than_the_groups_hold() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    asked = next(one["parameters"] for one in deployments if one["name"] == "on-kubernetes")
    for cloud in CLOUDS:
        most = {group["groupName"]: group["maxReplicas"] for group in spec_of(cloud)["workerGroupSpecs"]}
        assert asked["gpu_actors"] == most["vace-gpu-ondemand"] == most.get("vace-gpu-spot", asked["gpu_actors"])
        assert asked["cpu_actors"] == 4 * most["mask-cpu"]
        entrypoint = the_ray(manifests(f"jobs/{cloud}"))["spec"]["entrypoint"]
        assert f"--cpu-actors {asked['cpu_actors']} " in entrypoint
        assert f"--gpu-actors {asked['gpu_actors']} " in entrypoint


def test_the_cache_is_the_nodes_and_every_group_has_it() -> None:
    for cloud in CLOUDS:
        for group in groups(spec_of(cloud)):
            (cache,) = [one for one in group["template"]["spec"]["volumes"] if one["name"] == "cache"]
            assert cache["hostPath"]["path"] == "/var/lib/vace-batch"


def test_a_command_with_a_typo_is_found() -> None:
    assert command_faults("vace-batch run m.parquet -o out --gpu-actors 8") == []
    assert command_faults("vace-batch run m.parquet -o out --gpu-actor 8")
