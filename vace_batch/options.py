"""Options of a run: what the command line, the flows and tests set; frozen, unknown names refused."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from vace_batch.costs import BudgetSettings, Calibration, Prices

KEY_VERSION = 6
"""Part of every identity. Raise it when the same inputs give other pixels."""

KeptForm = Literal["ffv1", "png", "coco", "parquet"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
LoraExpert = Literal["both", "high", "low"]
TrackerName = Literal["bytetrack", "botsort"]


class MediaLimits(BaseModel):
    """What a video may be at most; what is over is a failed row before it is decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(1 << 40, ge=1, description="size of a video, mask or reference")
    max_pixels: int = Field(8192 * 8192, ge=1, description="pixels of a stored picture")
    max_duration_s: float = Field(86_400, gt=0, description="seconds that the header says")
    max_frames: int = Field(5_000_000, ge=1, description="frames of a video")
    max_streams: int = Field(64, ge=1, description="video, audio and subtitle tracks")


class LoraOption(BaseModel):
    """A LoRA of the run: for jobs that name none, of `preset` only where one is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(description="a safetensors file: a path, hf://owner/name[@revision]/file or a store's URI")
    weight: float = Field(1.0, ge=-4, le=4, description="how much of it")
    expert: LoraExpert = Field("both", description="into which of a model's two transformers")
    preset: str | None = Field(None, description="only for jobs of this preset")


class PresetOption(BaseModel):
    """Values of the run's `sampling` for jobs of `preset`: they win over the preset's own, a row's over both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = Field(description="the name of a preset")
    sampling: dict[str, int | float | str] = Field(description="values by the names of the column `sampling`")


class EngineSettings(BaseModel):
    """How the model computes. The fields of `pixel_fields` change pixels; the others change nothing beyond rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of transformer and text encoder; auto: bfloat16 on a GPU, float32 without (pixels)"
    )
    storage: Literal["full", "fp8"] = Field(
        "full", description="fp8: weights of linear layers rest as float8_e4m3 and are cast layer by layer (pixels)"
    )
    attention: str = Field(
        "native", description="attention back end by its name in diffusers: native, flash, _flash_3, sage ... (pixels)"
    )
    compile: bool = Field(False, description="compile the transformer's blocks, for the first 6 shapes")
    offload: Literal["none", "group"] = Field("none", description="group: blocks wait in host memory; slow and small")
    devices: int = Field(1, ge=1, le=8, description="devices of one machine that share a window's tokens")
    text_encoder: Literal["drop", "keep"] = Field("drop", description="drop: it goes again when prompts are embedded")
    max_batch_tokens: int | None = Field(None, ge=1, description="tokens in one forward; the model's longest window")
    vae_pixels: int = Field(1280 * 720, ge=1, description="pixels of one frame of all windows at once in the VAE")
    vae_latents: int = Field(1, ge=1, le=21, description="latent frames in one call of the VAE; more needs more memory")

    def pixel_fields(self) -> dict[str, str]:
        """Those of the fields that decide pixels which are not at their defaults."""
        return self.model_dump(include={"dtype", "storage", "attention"}, exclude_defaults=True)


class Threshold(BaseModel):
    """From which value a check's number is worth a person's look, and from which it is a failure (never, if unset)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review: float = Field(ge=0)
    fail: float | None = Field(None, ge=0)


class QualitySettings(BaseModel):
    """When a finished clip is for a person to look at. The defaults were tried on cases with known truth
    (benchmarks/quality.py); a clip's numbers are recorded, so that other thresholds need no new measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="measure finished clips at all")
    residual: Threshold = Field(Threshold(review=0.18, fail=0.6), description="share of the object's edges left")
    uncovered: Threshold = Field(Threshold(review=0.1), description="share of the mask's rim that is the object's")
    detected: Threshold = Field(Threshold(review=0.2, fail=0.6), description="frames in which a detector finds it")
    appeared: Threshold = Field(Threshold(review=0.2), description="frames in which it finds something new")
    foreign: Threshold = Field(Threshold(review=0.06), description="share of the fill in colours not found round it")
    gray: Threshold = Field(Threshold(review=0.2, fail=0.6), description="share of the fill that is plain gray")
    seam: Threshold = Field(Threshold(review=2.5), description="step across the fill's border, levels")
    flicker: Threshold = Field(Threshold(review=2.0), description="change between frames beyond the ring's, levels")
    step: Threshold = Field(Threshold(review=4.0), description="sudden change of colour, levels")
    blur: Threshold = Field(Threshold(review=0.25), description="loss of sharpness against the ring, 0..1")
    outside: Threshold = Field(Threshold(review=4.0, fail=10.0), description="change of a place outside, levels")

    def threshold(self, name: str) -> Threshold:
        """The thresholds of a check."""
        found: Threshold = getattr(self, name)
        return found


RemedyName = Literal["dilate", "hull", "box", "background", "seed", "removal-lora", "model", "crop"]


class AttemptSettings(BaseModel):
    """What is tried with a clip whose verdict is not a pass; the best attempt is the one that is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_attempts: int = Field(1, ge=1, le=9, description="attempts at a clip in all; 1: it stays as it is")
    remedies: tuple[RemedyName, ...] = Field(
        get_args(RemedyName), description="what may be changed for another attempt"
    )
    model: str | None = Field(None, description="a bigger model to try")


class Options(BaseModel):
    """How a batch is run. The fields of `pixel_fields` decide pixels and are part of every identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "tiny", description="default of the manifest's `model`: tiny, a directory, a hub id or a store's folder"
    )
    detector: str | None = Field(None, description="default YOLO weights for `targets`")
    segmenter: str | None = Field(None, description="default SAM weights for point and box prompts")
    depth: str | None = Field(None, description="default ultralytics depth weights for the control depth")
    pose: str | None = Field(None, description="default ultralytics pose weights for the controls pose and pose_body")
    loras: tuple[LoraOption, ...] = Field((), description="LoRAs of jobs that name none")
    presets: tuple[PresetOption, ...] = Field((), description="what the run changes of presets, as its LoRAs want it")
    weights_folders: tuple[str, ...] = Field((), description="where weights named by a manifest's row may lie")
    pickles: tuple[Sha256, ...] = Field((), description="SHA-256 of the .pt files in those folders that rows may name")
    allow_roots: tuple[str, ...] = Field((), description="what rows may read beside the manifest's folder and OUT")
    media: MediaLimits = Field(default_factory=MediaLimits, description="what a video may be at most")
    detect_every: int = Field(4, ge=1, le=16, description="frames one look may stand for where all moves evenly")
    keep_masks: KeptForm | None = Field(
        None, description="also write what was to change to OUT/masks, in this form, and short ones into the results"
    )
    tracker: TrackerName = Field(
        "bytetrack", description="who follows detected objects; botsort takes the camera's motion out"
    )
    feather_px: int = Field(2, ge=0, le=64, description="how far the fill fades into the source outside the mask")
    crf: int | None = Field(None, ge=0, le=51, description="encoder quality; by codec where unset")
    cpu_actors: int | None = Field(None, ge=1, description="processes for masks, VCUs and stitching")
    gpu_actors: int | None = Field(None, ge=1, description="processes for VACE; one a GPU, or one CPU process without")
    min_cpu_actors: int | None = Field(None, ge=0, description="keep only so many where there is no work; all if unset")
    min_gpu_actors: int | None = Field(None, ge=0, description="keep only so many where there is no work; all if unset")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="how the model computes")
    max_batch: int = Field(4, ge=1, le=64, description="equal windows in one call of a GPU actor")
    payload_mb: int = Field(2048, ge=16, description="bytes of VCUs in flight, in MiB")
    quality: QualitySettings = Field(default_factory=QualitySettings, description="when a clip is for a person to see")
    attempts: AttemptSettings = Field(
        default_factory=AttemptSettings, description="further attempts at clips that do not pass"
    )
    calibration: Calibration = Field(default_factory=Calibration, description="what costs are predicted with")
    prices: Prices = Field(default_factory=Prices, description="what resources are paid with")
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="where a run stops")
    unit_time_limit_s: float = Field(3600, gt=0, description="a step that takes longer is killed and counted")

    def pixel_fields(self) -> dict[str, Any]:
        """What decides the pixels of a stitched clip beside the job, the model and the masks."""
        return {"feather_px": self.feather_px, "crf": self.crf}

    def as_json(self) -> str:
        return json.dumps(self.model_dump(), sort_keys=True)
