"""Build kustomizations with the features that infra/kuberay uses: resources, JSON 6902 patches, images, namespace and
replaced fields.

Anything else in a kustomization is refused, and where `kubectl` is installed a test compares the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]
_LOCAL = "config.kubernetes.io/local-config"
_KNOWN = {"apiVersion", "kind", "namespace", "resources", "images", "patches", "replacements"}
_WITHOUT_NAMESPACE = {"Namespace"}


def build(folder: Path) -> list[Manifest]:
    """Return the documents that `kubectl kustomize FOLDER` prints, in the order of the files."""
    return [found for found in _accumulate(folder) if found["metadata"].get("annotations", {}).get(_LOCAL) != "true"]


def _accumulate(folder: Path) -> list[Manifest]:
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if set(said) - _KNOWN:
        raise ValueError(f"{folder}: {set(said) - _KNOWN} is not understood here")
    found: list[Manifest] = []
    for name in said["resources"]:
        place = folder / name
        found += _accumulate(place) if place.is_dir() else _read(place)
    for patch in said.get("patches", ()):
        hit = [number for number, manifest in enumerate(found) if _is(manifest, patch["target"])]
        if not hit:
            raise ValueError(f"{folder}: a patch of {patch['target']} meets nothing")
        for number in hit:
            found[number] = jsonpatch.apply_patch(found[number], yaml.safe_load(patch["patch"]))
    for image in said.get("images", ()):
        _rename(found, image["name"], image["newName"])
    for manifest in found:
        if said.get("namespace") and manifest["kind"] not in _WITHOUT_NAMESPACE:
            manifest["metadata"]["namespace"] = said["namespace"]
    for replacement in said.get("replacements", ()):
        _replace(found, replacement)
    return found


def _read(file: Path) -> list[Manifest]:
    """Read the documents of a file; each YAML alias becomes a copy, so that a patch changes one copy only."""
    return [json.loads(json.dumps(one)) for one in yaml.safe_load_all(file.read_text()) if one]


def _is(manifest: Manifest, target: dict[str, str]) -> bool:
    return manifest["kind"] == target["kind"] and manifest["metadata"]["name"] == target.get(
        "name", manifest["metadata"]["name"]
    )


def _rename(value: Any, name: str, new: str) -> None:
    """Rename images in every list of containers, however deep, as kustomize does also in custom resources."""
    if isinstance(value, dict):
        for container in [*(value.get("containers") or ()), *(value.get("initContainers") or ())]:
            image, _, tag = container.get("image", "").partition(":")
            if image == name:
                container["image"] = f"{new}:{tag}"
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _rename(inner, name, new)


def _replace(found: list[Manifest], replacement: dict[str, Any]) -> None:
    source = next(manifest for manifest in found if _is(manifest, replacement["source"]))
    for target in replacement["targets"]:
        for manifest in (manifest for manifest in found if _is(manifest, target["select"])):
            for path in target["fieldPaths"]:
                *parents, last = path.split(".")
                place = manifest
                for parent in parents:
                    place = place[parent]
                place[last] = source[replacement["source"]["fieldPath"]]
