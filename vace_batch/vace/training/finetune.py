"""Fine-tune the context branch of a VACE model, whole or by LoRA, on the videos of a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from vace_batch.errors import UsageError
from vace_batch.geometry import Size, token_count
from vace_batch.manifest.reader import read_manifest
from vace_batch.vace.encode import ConditionEncoder
from vace_batch.vace.model import VaceModel, load
from vace_batch.vace.prompts import PromptEncoder
from vace_batch.vace.training.archive import Archive
from vace_batch.vace.training.flow_matching import TrainingBatch, context_parameters
from vace_batch.vace.training.loop import Schedule, fit, trained_weights
from vace_batch.vace.training.lora import add_lora, save_lora
from vace_batch.vace.training.samples import TASKS, Sample, sample_of

LORA_FILE, BRANCH_FOLDER, LOSSES_FILE = "lora.safetensors", "transformer", "losses.json"

_VAE_PIXELS = 1280 * 720


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Windows, rank and task of a training: `rank` 0 trains the whole context branch, `task` None draws all tasks."""

    size: Size
    num_frames: int
    batch: int = 1
    rank: int = 16
    task: str | None = "removal"
    checkpointing: bool = False

    def __post_init__(self) -> None:
        token_count(self.num_frames, self.size)
        if self.batch < 1 or self.rank < 0:
            raise ValueError(f"batch, rank: expected at least 1 and 0, got {self.batch} and {self.rank}")


def tuning_of(size: str, num_frames: int, *, batch: int, rank: int, task: str | None, checkpointing: bool) -> Tuning:
    """Make a Tuning from command-line values: `size` is WxH, `task` one of TASKS or `any`.

    Raises:
        UsageError: a word is wrong, or the numbers make no window.
    """
    width, _, height = size.partition("x")
    if task not in (*TASKS, "any"):
        raise UsageError(f"task: expected any or one of {', '.join(TASKS)}, got {task!r}")
    try:
        return Tuning(
            size=Size(int(width), int(height)),
            num_frames=num_frames,
            batch=batch,
            rank=rank,
            task=None if task == "any" else task,
            checkpointing=checkpointing,
        )
    except ValueError as error:
        raise UsageError(f"training: {error}") from None


def tune(
    manifest: str,
    ref: str,
    directory: Path,
    tuning: Tuning,
    schedule: Schedule,
    *,
    device: str | None = None,
    report: Callable[[int, float], None] | None = None,
) -> Path:
    """Train on the videos of `manifest` and write the result into `directory`: a LoRA file or a transformer folder.

    A checkpoint there is gone on from; of several processes the first one writes. The base is frozen; masks, and where
    `tuning` says so other tasks, are drawn at random over clean windows.

    Raises:
        UsageError: a video is not a local file, no video is long enough, or the model or the checkpoint does not fit.
        ManifestError: the manifest is wrong.
        ClipError: a video cannot be read.
    """
    archive = Archive(_local_videos(manifest), tuning.size, tuning.num_frames)
    torch.manual_seed(schedule.seed)
    model = load(ref, device=device, dtype=torch.float32)
    transformer = model.transformer.train()
    trained = add_lora(transformer, tuning.rank) if tuning.rank else context_parameters(transformer)
    if tuning.checkpointing:
        transformer.enable_gradient_checkpointing()
    batches = _Batches(model, archive, tuning)
    losses = fit(transformer, trained, batches, schedule, directory, report=report)
    made = directory / (LORA_FILE if tuning.rank else BRANCH_FOLDER)
    if dist.is_initialized() and dist.get_rank():
        return made
    (directory / LOSSES_FILE).write_text(json.dumps([round(loss, 5) for loss in losses]))
    if tuning.rank:
        save_lora(trained_weights(directory), made)
    else:
        transformer.save_pretrained(made)
    return made


def _local_videos(manifest: str) -> list[str]:
    """List the videos of a manifest.

    Raises:
        UsageError: a video is not a local file.
    """
    paths = [str(job.video_uri) for job in read_manifest(manifest).jobs]
    remote = [path for path in paths if not Path(path).is_file()]
    if remote:
        raise UsageError(f"training: {remote[0]} is not a local file; training reads each video many times")
    return paths


class _Batches:
    """Draws training batches and encodes them with the encoders of generation."""

    def __init__(self, model: VaceModel, archive: Archive, tuning: Tuning) -> None:
        self._archive, self._tuning, self._device = archive, tuning, model.device
        self._encoder = ConditionEncoder(model.vae, model.device, _VAE_PIXELS)
        self._prompts = PromptEncoder.of(model)

    def __call__(self, generator: np.random.Generator) -> TrainingBatch:
        # one task a batch: references make windows longer
        task = self._tuning.task or str(generator.choice(list(TASKS), p=list(TASKS.values())))
        samples = [sample_of(task, self._archive.window(generator), generator) for _ in range(self._tuning.batch)]
        with torch.no_grad():
            vcus = [sample.vcu for sample in samples]
            return TrainingBatch(
                latents_BCthw=torch.stack([self._target(sample) for sample in samples]),
                control_BCthw=self._encoder.control(vcus),
                text_BLD=self._prompts([vcu.prompt for vcu in vcus]).to(self._device).float().clone(),
            )

    def _target(self, sample: Sample) -> Tensor:
        pixels = torch.from_numpy(sample.target_THWC.copy()).to(self._device).permute(3, 0, 1, 2)[None]
        latents = self._encoder.encode(pixels.float() / 255 * 2 - 1)[0]
        references = [torch.from_numpy(picture.copy()) for picture in sample.vcu.references]
        if not references:
            return latents
        pictures = torch.stack(references).to(self._device).permute(0, 3, 1, 2)[:, :, None]
        encoded = self._encoder.encode(pictures.float() / 255 * 2 - 1)
        return torch.cat([encoded.squeeze(2).transpose(0, 1), latents], dim=1)
