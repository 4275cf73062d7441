"""Rebuild the embedded model's weights stage by stage; a stopped stage resumes, a finished stage is kept.

    python -m recipes.tiny_model.build PHOTOS OUT [--stage linear|vae|text|base|context|package]

PHOTOS is a folder of pictures, among them those of HELD_OUT; the model's card says which ones the shipped weights are
made of. OUT/package is then a model directory like any other.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, UMT5EncoderModel

from recipes.tiny_model.autoencoder import train_decoder, train_linear, transplanted
from recipes.tiny_model.context_init import begin_by_spreading
from recipes.tiny_model.linear import LinearAutoencoder
from recipes.tiny_model.samples import HELD_OUT, LINEAR_FILE, Batches, DrawnAhead, Sources
from recipes.tiny_model.text_encoder import train_text_encoder
from vace_batch.vace.profiles import TINY, model_files
from vace_batch.vace.training.clips import Clips
from vace_batch.vace.training.flow_matching import (
    begin_base,
    begin_context,
    context_parameters,
    flow_loss,
    use_padded_text,
)
from vace_batch.vace.training.loop import Schedule, fit
from vace_batch.vace.training.pictures import Pictures

ARCHITECTURE: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 64,
    "freq_dim": 64,
    "ffn_dim": 384,
    "num_layers": 3,
    "rope_max_seq_len": 1024,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "qk_norm": "rms_norm_across_heads",
}

STAGES = ("linear", "vae", "text", "base", "context", "package")

SCHEDULES = {
    # an ordinary mix of times would spend most of its steps where the embedded model, with its few, never is
    stage: Schedule(
        steps=steps,
        learning_rate=1e-3,
        warmup=100,
        weight_decay=0.0,
        pure_noise=0.6,
        checkpoint_every=1000,
    )
    for stage, steps in (("base", 1400), ("context", 13_000))
}

_VALIDATION_SEED, _VALIDATED = 1_000_003, 24
_REPORT_EVERY = 500


class Validation:
    """Losses on fixed batches of held-out photographs."""

    def __init__(self, sources: Sources, count: int = _VALIDATED) -> None:
        batches = Batches(replace(sources, validation=True))
        self._batches = [batches(np.random.default_rng([_VALIDATION_SEED, number])) for number in range(count)]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def __call__(self, model: nn.Module, hints: float | None) -> dict[str, float]:
        """`loss`: unweighted, times drawn as in sampling; `start`: at pure noise, weighted as in training."""
        totals = {"loss": 0.0, "start": 0.0}
        for number, batch in enumerate(self._batches):
            plain = replace(batch, weights_BCthw=None)
            for name, given, pure in (("loss", plain, 0.0), ("start", batch, 1.0)):
                noise = torch.Generator().manual_seed(number)
                loss = flow_loss(model, given, flow_shift=3.0, generator=noise, hints=hints, pure_noise=pure)
                totals[name] += float(loss) / len(self._batches)
        return {name: round(total, 4) for name, total in totals.items()}


def base_model() -> WanTransformer3DModel:
    """Make an untrained text-to-video model."""
    model = WanTransformer3DModel(**ARCHITECTURE)
    begin_base(model)
    use_padded_text(model)
    return model


def context_model(base: dict[str, Tensor], neutral: Tensor) -> WanVACETransformer3DModel:
    """Make a VACE model on the trained `base`, its branch untrained; `neutral` is the latent, (16,), of grey."""
    layers = list(range(ARCHITECTURE["num_layers"]))
    model = WanVACETransformer3DModel(**ARCHITECTURE, vace_layers=layers, vace_in_channels=96)
    model.load_state_dict(base, strict=False)
    begin_context(model)
    begin_by_spreading(model, neutral)
    use_padded_text(model)
    return model


def train_autoencoder(photos: Path, out: Path, *, linear_steps: int = 1200, steps: int = 1000) -> None:
    """Write `out`/linear.pt and `out`/vae; existing files are kept."""
    generator = np.random.default_rng(0)
    pictures = Pictures(photos, held_out=HELD_OUT)
    if not (out / LINEAR_FILE).exists():
        _save(train_linear(pictures, steps=linear_steps, generator=generator).state_dict(), out / LINEAR_FILE)
    if not (out / "vae").exists():
        linear = LinearAutoencoder(16, 16)
        linear.load_state_dict(torch.load(out / LINEAR_FILE, weights_only=True))
        vae = transplanted(linear, Clips(pictures), generator)
        train_decoder(vae, pictures, Clips(pictures), steps=steps, generator=generator)
        vae.half().save_pretrained(out / "vae")


def train_text(out: Path, *, steps: int = 700) -> None:
    """Write `out`/text_encoder and its tokenizer; existing files are kept."""
    tiny = str(model_files(TINY))
    shutil.copytree(Path(tiny) / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    if not (out / "text_encoder").exists():
        encoder = UMT5EncoderModel(AutoConfig.from_pretrained(tiny, subfolder="text_encoder"))
        tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
        train_text_encoder(encoder, tokenizer, steps=steps, generator=np.random.default_rng(0))
        encoder.half().save_pretrained(out / "text_encoder")


def train_transformer(
    stage: str, sources: Sources, schedule: Schedule, *, every: int = _REPORT_EVERY, validated: int = _VALIDATED
) -> None:
    """Train `base` or, on it, `context` in the folder of the parts.

    Every `every` steps the losses on `validated` held-out batches are added to STAGE.jsonl.
    """
    out, hints = sources.parts, None
    validate = Validation(sources, validated)
    if stage == "base":
        model: nn.Module = base_model()
        trained = dict(model.named_parameters())
    else:
        neutral = Batches(sources).encoder.encode(torch.zeros(1, 3, 1, 64, 64))[0, :, 0, 4, 4]
        model, hints = context_model(torch.load(out / "base.pt", weights_only=True), neutral), 1.0
        trained = context_parameters(model)
    batches = DrawnAhead(sources)
    report = _recorder(out / f"{stage}.jsonl", every, lambda: validate(model, hints))
    try:
        fit(model, trained, batches, schedule, out / stage, hints=hints, report=report)
    finally:
        batches.close()
    _save(model.state_dict(), out / f"{stage}.pt")


def package(out: Path) -> Path:
    """Write `out`/package, a model directory in float16, from the stages' files."""
    made = out / "package"
    tiny = Path(str(model_files(TINY)))
    made.mkdir(exist_ok=True)
    shutil.copy(tiny / "model_index.json", made)
    shutil.copytree(tiny / "scheduler", made / "scheduler", dirs_exist_ok=True)
    for part in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(out / part, made / part, dirs_exist_ok=True)
    weights = torch.load(out / "context.pt", weights_only=True)
    model = context_model(weights, torch.zeros(ARCHITECTURE["in_channels"]))
    model.load_state_dict(weights)
    model.half().save_pretrained(made / "transformer")
    return made


def _recorder(file: Path, every: int, validate: Callable[[], dict[str, float]]) -> Callable[[int, float], None]:
    began = time.monotonic()
    losses: list[float] = []

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if step % every:
            return
        line = {"step": step, "trained": round(float(np.mean(losses)), 4), **validate()}
        losses.clear()
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line | {"seconds": round(time.monotonic() - began, 1)}) + "\n")

    return report


def _save(weights: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    torch.save(weights, new)
    new.replace(path)


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    out: Annotated[Path, typer.Argument(help="Parts, checkpoints, losses and the package.")],
    stage: Annotated[str, typer.Option(help=f"Only one of {', '.join(STAGES)}.")] = "",
) -> None:
    """Rebuild the embedded model's weights."""
    torch.manual_seed(0)
    sources = Sources(photos=photos, parts=out)
    for name in [stage] if stage else STAGES:
        if name in ("linear", "vae"):
            train_autoencoder(photos, out)
        elif name == "text":
            train_text(out)
        elif name == "package":
            print(package(out))
        else:
            train_transformer(name, sources, SCHEDULES[name])


if __name__ == "__main__":
    typer.run(main)
