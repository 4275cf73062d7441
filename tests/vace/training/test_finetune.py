"""Fine-tuning the shipped model on a manifest: LoRA and whole branch, resumed, and used by the engine."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import multiprocessing

from vace_batch.errors import UsageError
from vace_batch.vace.profiles import model_files
from vace_batch.vace.training.finetune import Tuning, tune, tuning_of
from vace_batch.vace.training.loop import Schedule, mean_of_all, same_start


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One row, a video of 8 frames of moving waves."""
    root = tmp_path_factory.mktemp("archive")
    torch.set_num_threads(1)
    with av.open(str(root / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10, width=96, height=64, pix_fmt="bgr0")
        rows, columns = np.mgrid[:64, :96]
        for index in range(8):
            wave = 127 + 90 * np.sin((columns[..., None] + rows[..., None] + 3 * index) / np.array([5, 9, 14]))
            for packet in stream.encode(av.VideoFrame.from_ndarray(wave.astype(np.uint8), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    row = {"job_id": "a", "video_uri": str(root / "clip.mkv"), "task": "t2v", "prompt": "waves"}
    pq.write_table(pa.Table.from_pylist([row]), root / "manifest.parquet")
    return str(root / "manifest.parquet")


def tuning(**change: object) -> Tuning:
    return tuning_of("48x48", 5, **({"batch": 2, "rank": 2, "task": "removal", "checkpointing": False} | change))  # type: ignore[arg-type]


def test_a_lora_is_trained_and_gone_on_with(manifest: str, tmp_path: Path) -> None:
    schedule = Schedule(steps=3, learning_rate=1e-3, warmup=1)
    made = tune(manifest, "tiny", tmp_path / "lora", tuning(checkpointing=True), schedule, device="cpu")
    weights = load_file(made)
    ups = [weight for name, weight in weights.items() if name.endswith("lora_B.weight")]
    assert ups and all(name.startswith("transformer.vace_blocks.") for name in weights)
    assert all(weight.abs().max() > 0 for weight in ups)
    steps: list[int] = []
    tune(
        manifest,
        "tiny",
        tmp_path / "lora",
        tuning(),
        schedule,
        device="cpu",
        report=lambda step, _: steps.append(step),
    )
    assert steps == []


def test_the_whole_branch_leaves_the_base_as_it_was(manifest: str, tmp_path: Path) -> None:
    schedule = Schedule(steps=2, learning_rate=1e-3, warmup=1, bf16=True)
    made = tune(manifest, "tiny", tmp_path, tuning(rank=0, task="any", batch=1), schedule, device="cpu")
    after = load_file(made / "diffusion_pytorch_model.safetensors")
    shipped = load_file(str(model_files("tiny") / "transformer" / "diffusion_pytorch_model.safetensors"))
    changed = {name for name, weight in shipped.items() if not torch.equal(after[name], weight.float())}
    assert changed and all(name.startswith("vace_") for name in changed)


def test_what_cannot_be_trained_on_is_said(manifest: str, tmp_path: Path) -> None:
    for words, message in (
        ({"size": "50x48"}, "multiples of 16"),
        ({"num_frames": 6}, "4n\\+1"),
        ({"task": "flow"}, "expected any or one of"),
    ):
        fields = {"size": "48x48", "num_frames": 5, "batch": 1, "rank": 2, "task": "any", "checkpointing": False}
        with pytest.raises(UsageError, match=message):
            tuning_of(**(fields | words))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no shot of the manifest's videos has 33 frames"):
        long = tuning_of("48x48", 33, batch=1, rank=2, task="any", checkpointing=False)
        tune(manifest, "tiny", tmp_path, long, Schedule(steps=1), device="cpu")


@pytest.mark.slow
def test_processes_train_together(manifest: str, tmp_path: Path) -> None:
    """Train by Ray Train on gloo: finished work is not repeated, and the second process contributes."""
    from vace_batch.cluster.training import Team, tune_together

    schedule = Schedule(steps=2, learning_rate=1e-3, warmup=1)
    for _ in range(2):
        tune_together(manifest, "tiny", tmp_path / "two", tuning(batch=1), schedule, Team(workers=2, gpu=False))
    alone = tune(manifest, "tiny", tmp_path / "one", tuning(batch=1), schedule, device="cpu")
    weights, others = load_file(tmp_path / "two" / "lora.safetensors"), load_file(alone)
    assert weights.keys() == others.keys()
    assert any(not torch.equal(weights[name], others[name]) for name in weights)
    assert json.loads((tmp_path / "two" / "losses.json").read_text()) == []  # of the second call


def test_processes_start_alike_and_step_by_the_mean(tmp_path: Path) -> None:
    multiprocessing.spawn(_peer, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["step"] == second["step"] == 7
    for name in ("weight", "moment", "slope", "loss"):
        assert torch.equal(first[name], second[name])
    assert first["weight"].tolist() == [1.0, 1.0, 1.0] and first["moment"].tolist() == [5.0, 5.0, 5.0]
    assert first["slope"].tolist() == [1.5, 1.5, 1.5] and float(first["loss"]) == 15.0


def _peer(rank: int, folder: str) -> None:
    """One of two processes: its weights and gradients are 1 or 2, and only the first remembers a step."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    parameter = torch.nn.Parameter(torch.full((3,), float(rank + 1)))
    optimiser = torch.optim.AdamW([parameter])
    if rank == 0:
        moments = {"exp_avg": torch.full((3,), 5.0), "exp_avg_sq": torch.full((3,), 5.0)}
        optimiser.state[parameter] = {"step": torch.tensor(7.0)} | moments
    step = same_start(7 if rank == 0 else 0, {"a": parameter}, optimiser)
    parameter.grad = torch.full((3,), float(rank + 1))
    loss = mean_of_all(torch.tensor(10.0 * (rank + 1)), {"a": parameter}, 2)
    told = {"weight": parameter.detach(), "moment": optimiser.state[parameter]["exp_avg"], "slope": parameter.grad}
    torch.save(told | {"loss": loss, "step": step}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
