"""Limits of the values in a manifest: `cells` checks them, and the texts of the columns in `schema` state them."""

from __future__ import annotations

MAX_JOB_ID_BYTES = 512
MAX_PROMPT_CHARS = 4_000
MAX_LABELS = 200
MAX_LABEL_CHARS = 100
MAX_REFERENCES = 8
MAX_LORAS = 8
LORA_WEIGHT_RANGE = (-4, 4)
MAX_SEED = 2**63 - 1
PRIORITY_RANGE = (-1_000, 1_000)
MAX_COORDINATE_PX = 1_000_000
MAX_FRAME = 2**31 - 1
MAX_TIME_S = 10_000_000
WINDOW_FRAMES_RANGE = (5, 241)
MIN_WINDOW_TOKENS = 64
MAX_DILATION = {"px": 1_000, "%": 200, "token": 16}

STEPS_RANGE = (1, 200)
SAMPLING_RANGES: dict[str, tuple[float, float]] = {
    "guidance_scale": (0, 30),
    "guidance_scale_2": (0, 30),
    "boundary_ratio": (0, 1),
    "flow_shift": (0.1, 50),
    "conditioning_scale": (0, 4),
    "guidance_from": (0, 1),
    "guidance_until": (0, 1),
    "step_cache": (0, 0.99),
}
