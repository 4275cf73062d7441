"""Weights from a store and LoRAs per row through the whole pipeline: equal on one and on two actors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.command_line import call, clip, manifest, outputs, removal
from tests.support.s3_server import bucket, moto
from vace_batch.storage import files as storage
from vace_batch.vace.profiles import model_files


def rank_one(path: Path, base: dict[str, torch.Tensor], name: str, *, wide: int = 0) -> Path:
    rows, columns = base[name + ".weight"].shape
    up, down = torch.full((rows, 1), 0.5), torch.full((1, columns + wide), 0.5)
    save_file({f"transformer.{name}.lora_B.weight": up, f"transformer.{name}.lora_A.weight": down}, path)
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bucket with the embedded model and two LoRAs, of which one does not fit."""
    monkeypatch.setenv("VACE_BATCH_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    shutil.copytree(str(model_files("tiny")), model, dirs_exist_ok=True)
    base = load_file(model / "transformer/diffusion_pytorch_model.safetensors")
    with moto(tmp_path) as endpoint, bucket(endpoint) as uri:
        for file in model.rglob("*.*"):
            storage.publish(storage.join(uri, "model", str(file.relative_to(model))), file.read_bytes())
        for file in (
            rank_one(tmp_path / "good.safetensors", base, "vace_blocks.0.attn1.to_v"),
            rank_one(tmp_path / "wide.safetensors", base, "blocks.0.attn1.to_q", wide=3),
        ):
            storage.publish(storage.join(uri, "loras", file.name), file.read_bytes())
        yield uri


@pytest.mark.timeout(900)
def test_rows_have_their_own_loras_and_actors_do_not_matter(store: str, tmp_path: Path) -> None:
    video = clip(tmp_path / "v.mp4", 5)
    named: dict[str, list[dict[str, Any]] | None] = {
        "run's": None,
        "none": [],
        "half": [{"uri": "good.safetensors", "weight": 0.5}],
        "twice": [{"uri": f"{store}/loras/good.safetensors"}, {"uri": "good.safetensors", "weight": 1.0}],
        "wide": [{"uri": "wide.safetensors"}],
        "elsewhere": [{"uri": "s3://elsewhere/good.safetensors"}],
    }
    rows = [{**removal(name, video), "background": "off", "loras": loras, "seed": 3} for name, loras in named.items()]
    path = manifest(tmp_path / "m.parquet", rows)
    weights = ["--model", f"{store}/model", "--lora", f"{store}/loras/good.safetensors", "--weights", f"{store}/loras"]
    planned = call("plan", path, "--json", *weights, timeout_s=600)
    settings = {job["job_id"]: job["settings"] for job in json.loads(planned.stdout)["clips"] if job["settings"]}
    assert [lora["weight"] for lora in settings["half"]["sampling"]["loras"]] == [0.5]

    one = call("run", path, "-o", tmp_path / "one", "--json", "--gpu-actors", "1", *weights, timeout_s=600)
    jobs = {job["job_id"]: job for job in json.loads(one.stdout)["jobs"]}
    assert {name: job["error_code"] for name, job in jobs.items()} == {
        **dict.fromkeys(("run's", "none", "half", "twice")), "wide": "lora_unusable", "elsewhere": "weights_not_allowed"
    }, one.stderr  # fmt: skip
    assert "wide.safetensors: key transformer.blocks.0.attn1.to_q.lora_A.weight: expected" in jobs["wide"]["reason"]
    made = outputs(tmp_path / "one")
    assert len(set(made.values())) == 4

    two = call(
        "run", path, "-o", tmp_path / "two", "--json", "--gpu-actors", "2", "--max-batch", "4", *weights, timeout_s=600
    )
    assert two.returncode == 1 and outputs(tmp_path / "two") == made, two.stderr

    table = ds.dataset(str(tmp_path / "one/results"), partitioning="hive").to_table().to_pylist()
    recorded = {row["job_id"]: json.loads(row["settings"]) for row in table}
    assert recorded["half"] == settings["half"] and recorded["none"]["sampling"]["loras"] == []
    assert recorded["half"]["model"] == f"{store}/model" and len(recorded["half"]["revision"]) == 32
    assert [lora["uri"] for lora in recorded["run's"]["sampling"]["loras"]] == [f"{store}/loras/good.safetensors"]
    assert recorded["wide"]["sampling"]["loras"][0]["revision"]
