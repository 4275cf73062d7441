"""Our engine against diffusers' WanVACEPipeline: same modules, random weights, same inputs, interleaved in one run.

    python benchmarks/engine.py                        a middling model on the CPU; batches, counts, busy share
    python benchmarks/engine.py --device cuda          the real 1.3B, and the 14B where it fits, in bfloat16: a table
    python benchmarks/engine.py --rehearse             the same lines on this CPU, with a small model: no result
    python benchmarks/engine.py --settings             what each setting changes in the embedded model's latents

Ratios are what counts: each round times the stock calls and then ours, so that a noisy machine slows both. Only what
changes nothing in the result is on: batches, cached prompts, one forward where both prompts are equal, one encoding of
the video and none of the neutral half.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanVACEPipeline, WanVACETransformer3DModel
from engine_windows import windows
from torch import nn
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from vace_batch.options import EngineSettings
from vace_batch.steps import generate
from vace_batch.vace import profiles, step_cache
from vace_batch.vace.engine import VaceEngine
from vace_batch.vace.model import VaceModel, load
from vace_batch.vace.profiles import Architecture, ModelProfile
from vace_batch.vcu.unit import VCU

MIDDLING = Architecture(num_layers=8, num_vace_layers=4, dim=512, ffn_dim=2048, text_dim=256, vae_base_dim=24)


@dataclass(frozen=True, slots=True)
class Peers:
    """The two on the same modules."""

    engine: VaceEngine
    stock: WanVACEPipeline


# --- models ----------------------------------------------------------------------------------------------------------


def transformer_of(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> WanVACETransformer3DModel:
    """Random weights in the dtypes that loading gives: norms and the time embedding stay float32."""
    stride = architecture.num_layers // architecture.num_vace_layers
    with device, default_dtype(dtype):
        transformer = WanVACETransformer3DModel(
            num_attention_heads=architecture.dim // 128,
            attention_head_dim=128,
            text_dim=architecture.text_dim,
            ffn_dim=architecture.ffn_dim,
            num_layers=architecture.num_layers,
            vace_layers=list(range(0, architecture.num_layers, stride)),
        )
    for name, parameter in transformer.named_parameters():
        if any(kept in name.split(".") for kept in transformer._keep_in_fp32_modules):
            parameter.data = parameter.data.float()
    step_cache.install(transformer)
    return transformer.eval().requires_grad_(False)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def peers(profile: ModelProfile, device: torch.device, dtype: torch.dtype) -> Peers:
    """Build both peers on one set of modules; the text encoder has one layer, as prompts are not compared."""
    torch.manual_seed(0)
    architecture = profile.architecture
    tiny = profiles.model_files(profiles.TINY)
    tokenizer = AutoTokenizer.from_pretrained(str(tiny), subfolder="tokenizer")
    text = UMT5Config(vocab_size=len(tokenizer) + 512, d_model=architecture.text_dim, d_kv=64, d_ff=512, num_layers=1)
    with device:
        encoder = UMT5EncoderModel(text).to(dtype).eval().requires_grad_(False)
        vae = AutoencoderKLWan(base_dim=architecture.vae_base_dim).eval().requires_grad_(False)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=profile.flow_shift
    )
    model = VaceModel(
        ref="random",
        revision="random",
        profile=profile,
        transformer=transformer_of(architecture, device, dtype),
        vae=vae,
        tokenizer=tokenizer,
        text_encoder=encoder,
        scheduler_config=dict(scheduler.config),
        device=device,
        dtype=dtype,
    )
    stock = WanVACEPipeline(tokenizer, encoder, vae, scheduler, transformer=model.transformer)
    stock.set_progress_bar_config(disable=True)
    return Peers(VaceEngine(model), stock)


# --- work ------------------------------------------------------------------------------------------------------------


def ask_stock(stock: WanVACEPipeline, vcu: VCU) -> np.ndarray:
    video = torch.from_numpy(vcu.frames_THWC.copy()).permute(0, 3, 1, 2).float() / 255
    video[torch.from_numpy(vcu.neutral_THW)[:, None].expand_as(video)] = 0.5
    mask = torch.from_numpy(vcu.mask_THW)[:, None].expand_as(video).float()
    frames: np.ndarray = stock(
        prompt=vcu.prompt,
        negative_prompt=vcu.negative_prompt,
        video=[video],
        mask=[mask],
        height=vcu.size.height,
        width=vcu.size.width,
        num_frames=vcu.num_frames,
        num_inference_steps=vcu.sampling.num_inference_steps,
        guidance_scale=vcu.sampling.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(vcu.seed),
    ).frames[0]
    return frames


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall seconds, the device's queue included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(both: Peers, batch: Sequence[VCU], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of stock calls one by one and of our one call, by round; a first round warms up and is not counted."""
    device, stock_s, ours_s = both.engine.model.device, [], []
    for number in range(rounds + 1):
        theirs = seconds(device, lambda: [ask_stock(both.stock, vcu) for vcu in batch])
        ours = seconds(device, lambda: both.engine.generate(batch))
        if number:
            stock_s.append(theirs)
            ours_s.append(ours)
    return stock_s, ours_s


def show_ratio(name: str, stock_s: Sequence[float], ours_s: Sequence[float]) -> None:
    ratios = [theirs / ours for theirs, ours in zip(stock_s, ours_s, strict=True)]
    middle = f"{statistics.median(stock_s):9.2f} {statistics.median(ours_s):9.2f} {statistics.median(ratios):8.2f}"
    print(f"{name:52s} {middle}   {min(ratios):.2f}-{max(ratios):.2f}", flush=True)


# --- counts ----------------------------------------------------------------------------------------------------------


@contextmanager
def counted(module: nn.Module, forwards: list[int]) -> Iterator[None]:
    """Appends the batch size of each of the module's forwards."""

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], __: object) -> None:
        forwards.append(len(args[0] if args else next(iter(kwargs.values()))))

    hook = module.register_forward_hook(note, with_kwargs=True)
    yield
    hook.remove()


def count_encodes(both: Peers, batch: Sequence[VCU]) -> None:
    """Videos that go through the VAE's encoder and texts through the text encoder, by window."""
    latents = (batch[0].num_frames - 1) // 4 + 1
    model = both.engine.model
    runs = {
        "stock": lambda: [ask_stock(both.stock, vcu) for vcu in batch],
        "ours": lambda: both.engine.generate(batch),
    }
    both.engine.generate(batch)  # a run's first windows fill the caches
    for name, work in runs.items():
        videos: list[int] = []
        texts: list[int] = []
        with counted(model.vae.encoder, videos), counted(model.text_encoder.encoder.block[0], texts):
            work()
        per_window = f"{sum(videos) / latents / len(batch):g} videos encoded, {sum(texts) / len(batch):g} texts encoded"
        print(f"{name:5s} a window: {per_window}")


def busy_share(engine: VaceEngine, batch: Sequence[VCU]) -> None:
    """Share of the time in which the engine works: frames written after each window, and while the next one is made."""
    settings = EngineSettings(max_batch_tokens=batch[0].num_tokens)
    engine = VaceEngine(engine.model, settings)
    for name, calls in (("written after each window", [[vcu] for vcu in batch]), ("written meanwhile", [batch])):
        with tempfile.TemporaryDirectory() as out:
            began = time.perf_counter()
            records = [record for call in calls for record in generate.generate(call, engine, out)()]
            took = time.perf_counter() - began
        busy = sum(record["device_s"] for record in records)
        host = sum(record["seconds"] - record["device_s"] for record in records) / len(records)
        print(f"{name:28s} {busy / took:6.1%} busy over {len(records)} windows; {host:.3f} s to write one")


# --- settings --------------------------------------------------------------------------------------------------------


def on_settings() -> None:
    """Print how settings and shortcuts change the latents of one guided window of 20 steps, against all off."""
    torch.set_num_threads(1)
    [vcu] = windows(1, (9, 64, 96), 20, guided=True)
    exact = VaceEngine(load("tiny", device="cpu")).denoise([vcu])
    print(f"{'setting':44s} {'forwards':>9s} {'largest error':>14s} {'relative':>9s}")
    for given in (
        {}, {"attention": "_native_math"}, {"offload": "group"}, {"vae_latents": 2}, {"dtype": "bfloat16"},
        {"storage": "fp8"},
    ):  # fmt: skip
        dtype = torch.bfloat16 if "dtype" in given else None
        engine = VaceEngine(load("tiny", device="cpu", dtype=dtype), EngineSettings.model_validate(given))
        show_change(", ".join(f"engine {k}={v}" for k, v in given.items()) or "none", engine, vcu, exact)
    engine = VaceEngine(load("tiny", device="cpu"))
    for change in (
        {"guidance_from": 0.1, "guidance_until": 0.7}, {"step_cache": 0.6}, {"step_cache": 0.8}, {"step_cache": 0.9},
    ):  # fmt: skip
        other = replace(vcu, sampling=replace(vcu.sampling, **change))
        show_change("sampling " + ", ".join(f"{k}={v}" for k, v in change.items()), engine, other, exact)


def show_change(name: str, engine: VaceEngine, vcu: VCU, exact: torch.Tensor) -> None:
    """One row; a forward counts where the blocks after the first ran."""
    forwards: list[int] = []
    with counted(engine.model.transformer.blocks[1], forwards):
        error = engine.denoise([vcu]) - exact
    print(f"{name:44s} {len(forwards):9d} {error.abs().max():14.1e} {error.norm() / exact.norm():9.1e}", flush=True)


# --- the two machines ------------------------------------------------------------------------------------------------


def middling(name: str = "middling") -> ModelProfile:
    return ModelProfile(
        name=name, architecture=MIDDLING, max_tokens=4096, max_frames=81, overlap_frames=8, min_side=64,
        num_inference_steps=4, guidance_scale=5.0, flow_shift=3.0,
    )  # fmt: skip


def on_cpu(rounds: int) -> None:
    torch.set_num_threads(1)
    both = peers(middling(), torch.device("cpu"), torch.float32)
    print(f"{'4 windows, 3 steps, seconds':52s} {'stock':>9s} {'ours':>9s} {'ratio':>8s}   spread")
    for shape in ((5, 64, 64), (9, 96, 96)):
        for guided in (True, False):
            batch = windows(4, shape, 3, guided=guided)
            text = "two prompts" if guided else "equal prompts, as removals have"
            name = f"{shape[2]}x{shape[1]}x{shape[0]}, {batch[0].num_tokens} tokens, {text}"
            show_ratio(name, *compare(both, batch, rounds))
    count_encodes(both, windows(4, (9, 96, 96), 1, guided=True))
    busy_share(both.engine, windows(8, (17, 128, 128), 2, guided=False))


def matmul_tflops(device: torch.device, side: int = 8192) -> float:
    """Measure the TFLOP/s of a square bfloat16 matmul on this device, the best of 20."""
    left = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    right = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = min(seconds(device, lambda: left @ right) for _ in range(20))
    return 2 * side**3 / best / 1e12


GPU_SHAPES = ((1, (81, 256, 256)), (4, (81, 256, 256)), (1, (81, 480, 832)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """One window size: seconds of both, ours by its arithmetic, and the most memory that each allocated."""

    window: str
    stock_s: float | None = None
    ours_s: float | None = None
    ratio: float | None = None
    tflops: float | None = None
    share_of_matmul: float | None = None
    stock_gib: float | None = None
    ours_gib: float | None = None
    note: str = ""


def on_gpu(rounds: int, steps: int, large: bool, out: Path) -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is here: give the same command where there is one (--rehearse runs its lines)")
    real = [profiles.profile(name) for name in (profiles.VACE_1_3B, profiles.VACE_14B)[: 1 + large]]
    gpu_table(torch.device("cuda"), real, GPU_SHAPES, rounds=rounds, steps=steps, side=8192, out=out)


def rehearse(out: Path) -> None:
    """The lines of the GPU's table on this CPU, small: shows that they run; its numbers mean nothing."""
    torch.set_num_threads(1)
    small = replace(MIDDLING, num_layers=2, num_vace_layers=1, dim=128, ffn_dim=256)
    profile = replace(middling("Random/VACE-small"), architecture=small)
    shapes = ((1, (5, 32, 32)), (4, (5, 32, 32)))
    gpu_table(torch.device("cpu"), [profile], shapes, rounds=1, steps=2, side=256, out=out)


def gpu_table(
    device: torch.device,
    models: Sequence[ModelProfile],
    shapes: Sequence[Any],
    *,
    rounds: int,
    steps: int,
    side: int,
    out: Path,
) -> None:
    """Print the table; write it after every row as OUT.json and OUT.md, so that a run that is cut off leaves some."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {platform.machine()}"
    peak = matmul_tflops(device, side)
    about = {"date": time.strftime("%Y-%m-%d"), "device": name, "torch": torch.__version__, "steps": steps}
    about |= {"dtype": "bfloat16", "matmul": f"{side}^3", "matmul_tflops": round(peak, 4)}
    rows: list[GpuRow] = []
    for profile in models:
        for row in gpu_rows(device, profile, shapes, rounds, steps, peak):
            rows.append(row)
            out.with_suffix(".json").write_text(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1))
            out.with_suffix(".md").write_text(markdown(about, rows))
        gc.collect()  # a module and its hooks refer to each other
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(markdown(about, rows), flush=True)


def gpu_rows(
    device: torch.device, profile: ModelProfile, shapes: Sequence[Any], rounds: int, steps: int, peak: float
) -> Iterator[GpuRow]:
    short = profile.name.split("VACE-")[1].split("-")[0]
    try:
        both = peers(profile, device, torch.bfloat16)
    except torch.OutOfMemoryError:
        yield GpuRow(window=short, note="its weights do not fit")
        return
    for count, shape in shapes:
        yield gpu_row(both, short, windows(count, shape, steps, guided=True), rounds, peak)


def gpu_row(both: Peers, name: str, batch: Sequence[VCU], rounds: int, peak: float) -> GpuRow:
    vcu, device = batch[0], both.engine.model.device
    label = f"{name}, {len(batch)} x {vcu.size}x{vcu.num_frames}"
    try:
        stock_s, ours_s = compare(both, batch, rounds)
        stock_gib = peak_gib(device, lambda: [ask_stock(both.stock, one) for one in batch[:1]])
        ours_gib = peak_gib(device, lambda: both.engine.generate(batch))
    except torch.OutOfMemoryError:
        return GpuRow(window=label, note="does not fit")
    theirs, ours = statistics.median(stock_s), statistics.median(ours_s)
    rate = len(batch) * both.engine.model.profile.window_flop(vcu.num_frames, vcu.size, vcu.sampling) / ours / 1e12
    return GpuRow(
        window=label,
        stock_s=round(theirs, 3),
        ours_s=round(ours, 3),
        ratio=round(theirs / ours, 3),
        tflops=round(rate, 4),
        share_of_matmul=round(rate / peak, 4),
        stock_gib=stock_gib,
        ours_gib=ours_gib,
    )


def peak_gib(device: torch.device, work: Callable[[], object]) -> float | None:
    """Measure the peak of allocated memory in GiB; None for a device that does not count memory."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    seconds(device, work)
    return round(torch.cuda.max_memory_allocated() / 2**30, 2)


def markdown(about: dict[str, Any], rows: Sequence[GpuRow]) -> str:
    """The table as benchmarks/README.md has it."""
    words = f"{about['device']}, torch {about['torch']}, {about['date']}; {about['dtype']}, {about['steps']} steps, "
    words += f"two prompts; {about['matmul']} matmul: {about['matmul_tflops']:.4g} TFLOP/s\n\n"
    heads = ("windows", "stock s", "ours s", "ratio", "TFLOP/s", "of matmul", "stock GiB", "ours GiB", "")
    table = [heads, ("---",) * len(heads)]
    table += [tuple("" if cell is None else str(cell) for cell in asdict(row).values()) for row in rows]
    return words + "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    rounds: Annotated[int, typer.Option(help="timed rounds")] = 3,
    steps: Annotated[int, typer.Option(help="denoising steps on a GPU")] = 10,
    large: Annotated[bool, typer.Option(help="the 14B too, where it fits")] = True,
    out: Annotated[Path, typer.Option(help="a GPU's table, as OUT.json and OUT.md")] = Path("engine-gpu"),
    settings: Annotated[bool, typer.Option("--settings", help="what each setting changes")] = False,
    rehearsal: Annotated[bool, typer.Option("--rehearse", help="the GPU's lines on this CPU, small")] = False,
) -> None:
    """Print the tables."""
    if settings:
        on_settings()
    elif rehearsal:
        rehearse(out)
    elif device == "cpu":
        on_cpu(rounds)
    else:
        on_gpu(rounds, steps, large, out)


if __name__ == "__main__":
    typer.run(main)
