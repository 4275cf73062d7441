"""Find faults in a set of Kubernetes manifests: each check returns sentences, and needs no cluster.

Strict schemas come from KubeRay's custom resource definitions (not in this repository: VACE_BATCH_KUBERAY_CRDS) and
from kubernetes-validate; further faults, which these schemas cannot express, are checked here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import typer
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.scripts.scripts import start as ray_start

from tests.infra.kustomize import Manifest
from tests.infra.versions import INFRA, KUBERNETES, PINS, ROOT, VERSION
from vace_batch.cli.app import app

CRDS = Path(os.environ.get("VACE_BATCH_KUBERAY_CRDS", ROOT.parent / "shared" / "data" / "kuberay"))
DRAIN_REST_S = 10
"""What a pod needs after drain-node: Ray ends its processes."""

# It reads a megabyte of JSON for each manifest.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


def validate(body: dict[str, Any]) -> None:
    """Check a manifest against Kubernetes' own schema.

    Raises:
        kubernetes_validate.ValidationError: the manifest breaks the schema or has an unknown field.
    """
    kubernetes_validate.validate(body, KUBERNETES, strict=True)


def faults(manifests: list[Manifest]) -> list[str]:
    """Collect the faults of all checks except those by the definitions' schemas."""
    found = [fault for manifest in manifests for fault in kubernetes_faults(manifest)]
    for manifest in manifests:
        if spec := cluster_spec(manifest):
            found += [*ray_faults(spec), *cluster_faults(spec)]
        if manifest["kind"] == "RayJob":
            found += job_faults(manifest["spec"])
    return found + reference_faults(manifests)


def cluster_spec(manifest: Manifest) -> dict[str, Any] | None:
    if manifest["kind"] == "RayCluster":
        return dict(manifest["spec"])
    return dict(manifest["spec"]["rayClusterSpec"]) if manifest["kind"] == "RayJob" else None


# --- schemas ---------------------------------------------------------------------------------------------------------


@cache
def definition(kind: str) -> dict[str, Any]:
    """Return the v1 schema of a custom resource, made strict: an unnamed field is an error."""
    text = (CRDS / f"{kind.lower()}s.yaml").read_text()
    crd = next(one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one)
    version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
    return strict(version["schema"]["openAPIV3Schema"])


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {
        name: value for name, value in schema.items() if name not in ("properties", "items", "additionalProperties")
    }
    if made.get("format"):
        del made["format"]
    if "properties" in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if isinstance(schema.get("items"), dict):
        made["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    return made


def definition_faults(manifest: Manifest) -> list[str]:
    """Find faults by the schema of the resource's own definition."""
    validator = jsonschema.Draft202012Validator(definition(manifest["kind"]))
    body = {name: value for name, value in manifest.items() if name != "metadata"}
    return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in validator.iter_errors(body)]


def kubernetes_faults(manifest: Manifest) -> list[str]:
    """Find faults by Kubernetes's schema; Ray's resources are checked by their pods."""
    if spec := cluster_spec(manifest):
        pods = [{"apiVersion": "v1", "kind": "Pod", **group["template"]} for group in groups(spec)]
        bodies = [pod | {"metadata": {"name": "pod", **pod.get("metadata", {})}} for pod in pods]
    else:
        bodies = [manifest]
    found = []
    for body in bodies:
        try:
            validate(body)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{manifest['kind']} {manifest['metadata']['name']}: {error.message[:200]}")
    return found


def ray_faults(spec: dict[str, Any]) -> list[str]:
    """Find faults by the resources that Ray's autoscaler derives from each group."""
    try:
        _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "x"}, "spec": deepcopy(spec)})
    except Exception as error:  # each of Ray's checks has an exception of its own
        return [f"Ray: {type(error).__name__}: {error}"]
    return []


# --- what no schema says ---------------------------------------------------------------------------------------------


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def cluster_faults(spec: dict[str, Any]) -> list[str]:
    found = []
    if spec["rayVersion"] != PINS["ray"]:
        found.append(f"rayVersion {spec['rayVersion']}, expected {PINS['ray']} as in constraints.txt")
    if spec.get("autoscalerOptions", {}).get("version") != "v2":
        found.append("the autoscaler is not v2, which alone knows priority")
    if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        found.append("the head offers CPUs: work would be lost with it")
    names = [group["groupName"] for group in spec["workerGroupSpecs"]]
    found += [f"two groups are named {name}" for name in set(names) if names.count(name) > 1]
    for group in spec["workerGroupSpecs"]:
        found += [f"{group['groupName']}: {fault}" for fault in worker_faults(group)]
    for group in groups(spec):
        found += [f"{group.get('groupName', 'head')}: {fault}" for fault in group_faults(group)]
    return found


def worker_faults(group: dict[str, Any]) -> Iterator[str]:
    least, now, most = group["minReplicas"], group["replicas"], group["maxReplicas"]
    if not 0 <= least <= now <= most or most == 0:
        yield f"expected minReplicas <= replicas <= maxReplicas and at least 1 of them, got {least}, {now}, {most}"
    pod = group["template"]["spec"]
    drains = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if drains[:1] != ["drain-node"] or not (ROOT / "infra" / "docker" / drains[0]).exists():
        yield "no drain-node before it stops"
    elif pod.get("terminationGracePeriodSeconds", 30) < int(drains[1]) + DRAIN_REST_S:
        yield f"terminationGracePeriodSeconds is below {int(drains[1]) + DRAIN_REST_S}: it is killed while it drains"
    if "cloud.google.com/gke-spot" in pod.get("nodeSelector", {}) and int(drains[1]) > 14:
        yield f"drains for {drains[1]} s, but GKE gives a spot node's pods 15"
    yield from offer_faults(group)


def offer_faults(group: dict[str, Any]) -> Iterator[str]:
    """Check that Ray offers exactly the resources that the pod has."""
    parameters, resources = group["rayStartParams"], group["template"]["spec"]["containers"][0]["resources"]
    if parameters.get("num-cpus") != resources["requests"].get("cpu"):
        yield f"Ray is told {parameters.get('num-cpus')} CPUs, the pod asks for {resources['requests'].get('cpu')}"
    gpus = {name: resources[name].get("nvidia.com/gpu") for name in ("requests", "limits")}
    if gpus["requests"] != gpus["limits"]:
        yield f"nvidia.com/gpu: requests {gpus['requests']}, limits {gpus['limits']}"
    if "gpu" in group["groupName"] and gpus["limits"] != "1":
        yield "a group of VACE actors without one GPU a pod"


def group_faults(group: dict[str, Any]) -> Iterator[str]:
    flags = {option.lstrip("-") for parameter in ray_start.params for option in parameter.opts}
    yield from (f"ray start has no --{name}" for name in group["rayStartParams"] if name not in flags)
    pod = group["template"]["spec"]
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        image, _, tag = container["image"].rpartition(":")
        if image.rpartition("/")[2] != "vace-batch" or tag.rpartition("-")[0] != VERSION:
            yield f"image {container['image']}, expected vace-batch:{VERSION}-cpu or -gpu"
        gpu = "nvidia.com/gpu" in container.get("resources", {}).get("limits", {})
        if gpu and not tag.endswith("-gpu"):
            yield f"image {container['image']} on a GPU"
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        yield from (f"mount of {name}: no such volume" for name in mounted - {v["name"] for v in pod["volumes"]})
    names = [volume["name"] for volume in pod["volumes"]]
    if "cache" not in names or "shared-memory" not in names:
        yield "no cache of the node's, or no shared memory"


def job_faults(spec: dict[str, Any]) -> list[str]:
    """Find combinations that the operator refuses or ignores, and faults of the run's command."""
    found = []
    if spec.get("submissionMode", "K8sJobMode") not in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"):
        found.append(f"unknown submissionMode {spec['submissionMode']}")
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        found.append("ttlSecondsAfterFinished without shutdownAfterJobFinishes")
    if spec.get("clusterSelector") and (spec.get("rayClusterSpec") or spec.get("shutdownAfterJobFinishes")):
        found.append("clusterSelector with a cluster of its own")
    script = shlex.split(spec["entrypoint"])
    if script[:2] != ["sh", "-c"]:
        return [*found, "the entrypoint is no shell line, so that exit code 1 would be a failure"]
    return found + command_faults(script[2].partition(";")[0])


def command_faults(line: str) -> list[str]:
    """Check that `vace-batch ...` parses; each variable stands for one word."""
    words = shlex.split(re.sub(r"\$\{?\w+\}?", "x", line))
    command = typer.main.get_command(app)
    try:
        command.commands[words[1]].make_context(words[1], words[2:])  # type: ignore[attr-defined]
    except KeyError:
        return [f"{line}: no such command"]
    except Exception as error:  # typer has a click of its own, whose exceptions are not click's
        return [f"{line}: {error}"]
    return []


# --- references ------------------------------------------------------------------------------------------------------


def reference_faults(manifests: list[Manifest]) -> list[str]:
    """Find config maps, secrets and accounts that no manifest creates, and selectors that match no pod."""
    made = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    told = (INFRA / "README.md").read_text()
    found = []
    for kind, name in sorted(set(references(manifests)) - made):
        if not re.search(rf"create {kind.lower()} (generic )?{re.escape(name)} ", told):
            found.append(f"{kind} {name} is neither made here nor by a command of infra/README.md")
    labels = [labelled["labels"] for labelled in values(manifests, "metadata") if "labels" in labelled]
    for manifest in manifests:
        if manifest["kind"] == "PodDisruptionBudget":
            wanted = manifest["spec"]["selector"]["matchLabels"]
            if not any(wanted.items() <= found_labels.items() for found_labels in labels):
                found.append(f"the budget {manifest['metadata']['name']} meets no pod")
    return found


def references(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    for manifest in manifests:
        for name in values(manifest, "serviceAccountName"):
            yield "ServiceAccount", name
        for field, kind in (
            ("configMapRef", "ConfigMap"),
            ("configMapKeyRef", "ConfigMap"),
            ("configMap", "ConfigMap"),
        ):
            yield from ((kind, found["name"]) for found in values(manifest, field))
        for field in ("secretRef", "secretKeyRef"):
            yield from (("Secret", found["name"]) for found in values(manifest, field) if not found.get("optional"))
        for field in ("roleRef", "subjects"):
            for found in values(manifest, field):
                yield from ((one["kind"], one["name"]) for one in (found if isinstance(found, list) else [found]))


def values(tree: Any, field: str) -> Iterator[Any]:
    """Yield every value of a field, at any depth."""
    if isinstance(tree, dict):
        if field in tree:
            yield tree[field]
        for value in tree.values():
            yield from values(value, field)
    elif isinstance(tree, list):
        for value in tree:
            yield from values(value, field)
