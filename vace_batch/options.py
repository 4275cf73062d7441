"""Options of a run, set by the command line, the flows and Python; frozen, unknown names are refused.

Each option is described, bounded and defaulted here and nowhere else.
"""

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
    """Largest video that a row may name; a larger one fails its row before the video is decoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(1 << 40, ge=1, description="Bytes of a video, mask or reference.")
    max_pixels: int = Field(8192 * 8192, ge=1, le=8192 * 8192, description="Pixels of a stored frame.")
    max_duration_s: float = Field(86_400, gt=0, description="Seconds of a video by its header.")
    max_frames: int = Field(5_000_000, ge=1, description="Frames of a video.")
    max_streams: int = Field(64, ge=1, description="Video, audio and subtitle tracks of a file.")


class LoraOption(BaseModel):
    """A LoRA for rows that name no LoRA: for rows of every preset, or only of `preset`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str = Field(description="A safetensors file: a path, hf://owner/name[@revision]/file or a URI in a store.")
    weight: float = Field(1.0, ge=-4, le=4, description="Factor of the LoRA's change.")
    expert: LoraExpert = Field("both", description="Transformer of a two-expert model to change.")
    preset: str | None = Field(None, description="Only for rows of this preset.")


class PresetOption(BaseModel):
    """Values of `sampling` for rows of `preset`: they win over the preset's own, a row's values win over both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = Field(description="Name of the preset.")
    sampling: dict[str, int | float | str] = Field(description="Values by the names of the column `sampling`.")


class EngineSettings(BaseModel):
    """Settings of the model's computation. `pixel_fields` change pixels; the others change only rounding, which
    `deterministic` does not allow either.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Data type of transformer and text encoder; auto: bfloat16 on a GPU, else float32. Changes pixels.",
    )
    storage: Literal["full", "fp8"] = Field(
        "full",
        description="fp8: keep weights of linear layers as float8_e4m3 and cast layer by layer. Changes pixels.",
    )
    attention: str = Field(
        "native",
        description="Attention backend by its name in diffusers: native, flash, _flash_3, sage, ... Changes pixels.",
    )
    deterministic: bool = Field(
        False,
        description="Give equal bytes on machines of one kind, in any order and after any kill: one window a forward "
        "pass, deterministic kernels, float32 detectors. Without it equal rows may differ by one level.",
    )
    compile: bool = Field(False, description="Compile the transformer's blocks, for the first 6 shapes.")
    offload: Literal["none", "group"] = Field(
        "none", description="group: keep blocks in host memory until used; slower, needs less GPU memory."
    )
    devices: int = Field(1, ge=1, le=8, description="GPUs of one machine that share the tokens of a window.")
    text_encoder: Literal["drop", "keep"] = Field(
        "drop", description="drop: free the text encoder's memory once the prompts are embedded."
    )
    max_batch_tokens: int | None = Field(
        None, ge=1, description="Tokens in one forward pass; by default those of the model's longest window."
    )
    vae_pixels: int = Field(1280 * 720, ge=1, description="Pixels per frame, of all windows together, in one VAE call.")
    vae_latents: int = Field(1, ge=1, le=21, description="Latent frames in one VAE call; more need more memory.")

    def pixel_fields(self) -> dict[str, Any]:
        """Select the settings that change pixels and are not at their defaults.

        With `deterministic`, the settings that change rounding alone are selected, too.
        """
        names = {"dtype", "storage", "attention"}
        if self.deterministic:
            names |= {"deterministic", "devices", "vae_pixels", "vae_latents"}
        return self.model_dump(include=names, exclude_defaults=True)


class Threshold(BaseModel):
    """Values of a check from which a clip is for review, and from which the clip fails (never, if unset)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review: float = Field(ge=0)
    fail: float | None = Field(None, ge=0)


class QualitySettings(BaseModel):
    """Thresholds from which a finished clip is for a person to review. The defaults were tried on cases with known
    truth (benchmarks/quality.py). A clip's measured values are recorded, so other thresholds need no new measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Measure finished clips.")
    untouched: Literal["off", "psnr", "vmaf"] = Field(
        "off", description="Compare the untouched picture of output and source, too: by PSNR, or by PSNR and VMAF."
    )
    residual: Threshold = Field(
        Threshold(review=0.2, fail=0.6), description="Share of the object that is left, by area and opacity."
    )
    unchanged: Threshold = Field(
        Threshold(review=0.95), description="Share of the masked frames in which nothing was changed under the mask."
    )
    missed: Threshold = Field(
        Threshold(review=1), description="Frames without a mask, beside frames with one, in which the object shows."
    )
    uncovered: Threshold = Field(
        Threshold(review=0.1), description="Share of the mask's rim that belongs to the object."
    )
    detected: Threshold = Field(
        Threshold(review=0.2, fail=0.6), description="Share of frames in which a detector still finds the object."
    )
    appeared: Threshold = Field(
        Threshold(review=0.2), description="Share of frames in which a detector finds a new object."
    )
    foreign: Threshold = Field(
        Threshold(review=0.06), description="Share of the fill in colours that its surroundings lack."
    )
    gray: Threshold = Field(Threshold(review=0.2, fail=0.6), description="Share of the fill that is plain gray.")
    seam: Threshold = Field(
        Threshold(review=2.0), description="Step across the fill's border beyond those of its surroundings, in levels."
    )
    flicker: Threshold = Field(
        Threshold(review=2.0), description="Change between frames beyond that of the ring round the fill, in levels."
    )
    step: Threshold = Field(Threshold(review=4.0), description="Sudden change of colour in time, in levels.")
    unlike: Threshold = Field(
        Threshold(review=2.7), description="Difference from the background that other frames show, in levels."
    )
    blur: Threshold = Field(
        Threshold(review=0.12), description="Contrast of the surroundings that the fill lacks for sure, 0..1."
    )
    texture: Threshold = Field(
        Threshold(review=0.07), description="Contrast of the fill that the surroundings lack for sure, 0..1."
    )
    outside: Threshold = Field(
        Threshold(review=4.0, fail=10.0), description="Change of pixels outside the mask, in levels."
    )

    def threshold(self, name: str) -> Threshold:
        """Thresholds of the check `name`."""
        threshold: Threshold = getattr(self, name)
        return threshold


RemedyName = Literal["dilate", "hull", "box", "background", "seed", "removal-lora", "model", "crop"]


class AttemptSettings(BaseModel):
    """Further attempts at a clip whose verdict is not a pass; the best attempt is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_attempts: int = Field(
        1,
        ge=1,
        le=9,
        description="Further attempts at a clip whose verdict is not a pass; the best is kept. (`max_attempts` counts "
        "the first attempt, too.)",
    )
    remedies: tuple[RemedyName, ...] = Field(get_args(RemedyName), description="Changes that an attempt may make.")
    model: str | None = Field(None, description="A larger model for a further attempt.")


class Options(BaseModel):
    """Options of a batch. `pixel_fields` decide pixels and are part of every identity.

    A description is also the help text of the field's option on the command line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "tiny",
        description="Model for rows without `model`: tiny, a folder, hf://owner/name, hf://owner/name@revision or a "
        "folder in a store.",
    )
    detector: str | None = Field(None, description="YOLO weights for rows with `targets` but no `detector`.")
    segmenter: str | None = Field(
        None, description="SAM weights for rows with `points` or box prompts but no `segmenter`."
    )
    depth: str | None = Field(
        None, description="Ultralytics weights of control depth for rows without `control_weights`."
    )
    pose: str | None = Field(
        None, description="Ultralytics weights of controls pose and pose_body for rows without `control_weights`."
    )
    loras: tuple[LoraOption, ...] = Field(
        (), description="A safetensors LoRA for rows without `loras`, of one preset or of all; repeatable."
    )
    presets: tuple[PresetOption, ...] = Field(
        (), description="Values of `sampling` for rows of a preset; values in a row win; repeatable."
    )
    weights_folders: tuple[str, ...] = Field(
        (), description="Folder with weights that rows may name: a path, s3:// or hf://; repeatable."
    )
    pickles: tuple[Sha256, ...] = Field(
        (), description="SHA-256 of a .pt file below --weights that rows may name; repeatable."
    )
    allow_roots: tuple[str, ...] = Field(
        (), description="Folder or URI that rows may read besides the manifest's folder and OUT; repeatable."
    )
    media: MediaLimits = Field(
        default_factory=MediaLimits,
        description="Limit of a video, such as max_frames=... or max_pixels=...; repeatable.",
    )
    detect_every: int = Field(
        4,
        ge=1,
        le=16,
        description="Run the detector on every N-th frame while motion is steady, and interpolate between; 1: on every "
        "frame.",
    )
    keep_masks: KeptForm | None = Field(
        None, description="Also write the masks of all clips, earlier ones included, to OUT/masks in this form."
    )
    tracker: TrackerName = Field(
        "bytetrack", description="Tracker of detected objects; botsort compensates for a moving camera."
    )
    expect_found: bool = Field(
        False, description="Fail rows where nothing to change is found (nothing_found) instead of skipping them."
    )
    feather_px: int = Field(2, ge=0, le=64, description="Pixels over which the fill fades into the source.")
    crf: int | None = Field(None, ge=0, le=51, description="Encoder quality (CRF); by default depends on the codec.")
    cpu_actors: int | None = Field(
        None, ge=1, description="Processes for masks, VCUs and stitching; by default one per free core."
    )
    gpu_actors: int | None = Field(
        None, ge=1, description="Processes for VACE; by default one per GPU, or one on a CPU core."
    )
    min_cpu_actors: int | None = Field(
        None,
        ge=0,
        description="CPU processes that stay when idle; more start as needed, up to --cpu-actors. Default: all stay.",
    )
    min_gpu_actors: int | None = Field(
        None,
        ge=0,
        description="GPU processes that stay when idle; more start as needed, up to --gpu-actors. Default: all stay.",
    )
    engine: EngineSettings = Field(
        default_factory=EngineSettings,
        description="Setting of the model's computation: dtype, storage, attention, ...; repeatable.",
    )
    max_batch: int = Field(4, ge=1, le=64, description="Windows of equal shape in one call of a GPU process.")
    payload_mb: int = Field(2048, ge=16, description="MiB of VCUs that may wait for the GPUs in Ray's object store.")
    quality: QualitySettings = Field(
        default_factory=QualitySettings,
        description="Thresholds of a check: from REVIEW on a clip is for review, from FAIL on it fails; `off` "
        "turns all checks off; repeatable.",
    )
    attempts: AttemptSettings = Field(
        default_factory=AttemptSettings, description="Further attempts at a clip whose verdict is not a pass."
    )
    calibration: Calibration = Field(
        default_factory=Calibration, description="File of `doctor --calibrate` with measured rates, to predict costs."
    )
    prices: Prices = Field(
        default_factory=Prices,
        description="Price: gpu_hour, gpu_hour_spot, cpu_hour, cpu_hour_spot, gb_month, or months, currency, market; "
        "repeatable.",
    )
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="Bounds at which a run stops by itself.")
    unit_time_limit_s: float = Field(
        3600,
        ge=1,
        description="Seconds after which a step of a clip is killed; a killed step counts as failed.",
    )

    def pixel_fields(self) -> dict[str, Any]:
        """Options that decide the pixels of a stitched clip, beside the job, the model and the masks."""
        return {"feather_px": self.feather_px, "crf": self.crf}

    def as_json(self) -> str:
        """All options as one line of JSON, keys sorted."""
        return json.dumps(self.model_dump(), sort_keys=True)
