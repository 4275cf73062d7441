"""The columns of a manifest: a pyarrow schema whose metadata is the documentation of each column.

Each field carries its description, unit, example, default and tasks; `vace_batch.manifest.docs` makes the column
dictionary from the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from vace_batch.manifest.choices import CONTROL_TASKS, EXPAND_TASKS, EXTEND_TASKS, PROTECT_TASKS, REFERENCE_TASKS, TASKS
from vace_batch.manifest.limits import (
    LORA_WEIGHT_RANGE,
    MAX_DILATION,
    MAX_REFERENCES,
    MIN_WINDOW_TOKENS,
    PRIORITY_RANGE,
    SAMPLING_RANGES,
    STEPS_RANGE,
    WINDOW_FRAMES_RANGE,
)

MANIFEST_VERSION = 1
VERSION_KEY = "vace_batch.schema_version"

FREE_PREFIX = "x_"


def _field(
    name: str,
    type_: pa.DataType,
    description: str,
    *,
    example: object = None,
    default: str = "none",
    unit: str = "",
    tasks: Sequence[str] = TASKS,
) -> pa.Field:
    metadata = {"description": description, "unit": unit, "default": default, "tasks": ", ".join(tasks)}
    if example is not None:
        metadata["example"] = json.dumps(example, ensure_ascii=False)
    return pa.field(name, type_, nullable=default != "required", metadata=metadata)


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g}..{limits[1]:g}"


def _of(sampling: str) -> str:
    return _span(SAMPLING_RANGES[sampling])


def _list(type_: pa.DataType) -> pa.DataType:
    # Parquet's own name for the values of a list: with another name a file would change the type.
    return pa.list_(pa.field("element", type_))


def _rectangle(unit: str = "display px") -> list[pa.Field]:
    return [
        _field("x", pa.float64(), "left edge", unit=unit, default="required"),
        _field("y", pa.float64(), "top edge", unit=unit, default="required"),
        _field("width", pa.float64(), "width, above 0", unit=unit, default="required"),
        _field("height", pa.float64(), "height, above 0", unit=unit, default="required"),
    ]


def _boxes() -> pa.DataType:
    frame = _field("frame", pa.int64(), "frame of the keyframe; empty: a box for the whole clip", unit="frame")
    track = _field("object_id", pa.int64(), "the object that the keyframe belongs to", default="0")
    return _list(pa.struct([frame, track, *_rectangle()]))


_POINTS = _list(
    pa.struct(
        [
            _field("frame", pa.int64(), "frame of the point", unit="frame", default="0"),
            _field("object_id", pa.int64(), "the object that the point belongs to", default="0"),
            _field("x", pa.float64(), "column", unit="display px", default="required"),
            _field("y", pa.float64(), "row", unit="display px", default="required"),
            _field("positive", pa.bool_(), "false: the point is on the background", default="true"),
        ]
    )
)

_PICK = pa.struct(
    [
        _field("exclude", _list(pa.string()), "classes to leave out, though the detector finds them"),
        _field("largest", pa.bool_(), "true: only the largest object of each shot", default="false"),
        _field("tracks", _list(pa.int64()), "only the objects with these numbers, which `vace-batch masks` shows"),
    ]
)

_PROTECT = pa.struct(
    [
        _field("targets", _list(pa.string()), "classes of the detector to keep"),
        _field("boxes", _boxes(), "boxes to keep"),
        _field("mask_uri", pa.string(), "mask whose white pixels to keep"),
    ]
)

_EXPAND = pa.struct(
    [
        _field("left", pa.float64(), "share of the width, 0..1", default="0"),
        _field("right", pa.float64(), "share of the width, 0..1", default="0"),
        _field("up", pa.float64(), "share of the height, 0..1", default="0"),
        _field("down", pa.float64(), "share of the height, 0..1", default="0"),
        _field("inner", pa.bool_(), "true: the frame keeps its size; its sides are generated anew", default="false"),
    ]
)

_EXTEND = pa.struct(
    [
        _field(
            "mode", pa.string(), "known frames: first, last or firstlast; the other frames are new", default="first"
        ),
        _field(
            "unit",
            pa.string(),
            "known frames the model sees: one (frame), or as many as fit (clip)",
            default="clip",
        ),
        _field("seconds", pa.float64(), "time that the clip grows by; empty: start_s to end_s is new", unit="s"),
    ]
)

_LORAS = _list(
    pa.struct(
        [
            _field(
                "uri",
                pa.string(),
                "a .safetensors file: a name below --weights, hf://owner/name[@revision]/file or a store's URI",
                default="required",
            ),
            _field("weight", pa.float64(), f"weight, {_span(LORA_WEIGHT_RANGE)}", default="1"),
            _field(
                "expert",
                pa.string(),
                "transformer of a two-expert model for the LoRA: both, high, low",
                default="both",
            ),
        ]
    )
)

_FROM_PROFILE = "the model profile's"
_FROM_PRESET = "the preset's"

_SAMPLING_COLUMNS: tuple[tuple[str, pa.DataType, str, str], ...] = (
    ("num_inference_steps", pa.int64(), f"denoising steps, {_span(STEPS_RANGE)}", _FROM_PROFILE),
    (
        "guidance_scale",
        pa.float64(),
        f"classifier-free guidance, {_of('guidance_scale')}; 1 or less: off",
        _FROM_PROFILE,
    ),
    ("guidance_scale_2", pa.float64(), f"second expert's guidance, {_of('guidance_scale_2')}", "guidance_scale"),
    (
        "boundary_ratio",
        pa.float64(),
        f"noise level, {_of('boundary_ratio')}, below which the second expert works",
        "the model's",
    ),
    ("flow_shift", pa.float64(), f"shift of the flow schedule, {_of('flow_shift')}", _FROM_PROFILE),
    (
        "conditioning_scale",
        pa.float64(),
        f"weight of VACE's context branch, {_of('conditioning_scale')}",
        _FROM_PROFILE,
    ),
    ("mask_rule", pa.string(), "how the mask shrinks in time: nearest (stock) or max4 (maximum of each four)", "none"),
    ("guidance_from", pa.float64(), f"share of the steps before guidance begins, {_of('guidance_from')}", "0"),
    ("guidance_until", pa.float64(), f"share of the steps after which guidance ends, {_of('guidance_until')}", "1"),
    (
        "step_cache",
        pa.float64(),
        "change of the first block up to which a step reuses the other blocks of the step before, "
        f"{_of('step_cache')}; faster, not exact",
        "0, off",
    ),
    (
        "max_tokens",
        pa.int64(),
        f"largest window, {MIN_WINDOW_TOKENS} or more; larger crops are shrunk",
        _FROM_PROFILE,
    ),
    ("max_frames", pa.int64(), f"longest window, 4n+1 in {_span(WINDOW_FRAMES_RANGE)}", _FROM_PROFILE),
    ("overlap_frames", pa.int64(), "overlap of neighbouring windows, below max_frames", _FROM_PROFILE),
)
_SAMPLING = pa.struct(
    [
        _field(name, type_, text, default=default, unit="frames" if name.endswith("_frames") else "")
        for name, type_, text, default in _SAMPLING_COLUMNS
    ]
)

SCHEMA = pa.schema(
    [
        _field(
            "job_id",
            pa.string(),
            "Name of the row and of the output file, unique in the manifest.",
            example="news/1987-04-02",
            default="required",
        ),
        _field(
            "video_uri",
            pa.string(),
            "Source video: a path, file://, s3://, gs://, az://, abfs:// or memory://, taken literally. A relative "
            "path starts at the manifest's folder.",
            example="videos/1987-04-02.mov",
            default="required",
        ),
        _field("task", pa.string(), f"{', '.join(TASKS[:-1])} or {TASKS[-1]}.", example="removal", default="required"),
        _field(
            "targets",
            _list(pa.string()),
            "Mask source: classes of the detector, @text for burned-in text, @overlay for a logo that stands still "
            "while the scene moves. With `segmenter`, the detected boxes prompt SAM.",
            example=["person", "car"],
        ),
        _field(
            "pick",
            _PICK,
            "Choice among the objects that `targets` find.",
            example={"largest": True},
            default="all of them",
        ),
        _field(
            "boxes",
            _boxes(),
            "Mask source: boxes, still or keyframed. A keyframed box moves in straight lines from the object's first "
            "keyframe to its last. With `segmenter`, the boxes prompt SAM.",
            example=[{"x": 40, "y": 60, "width": 320, "height": 180}],
        ),
        _field(
            "points",
            _POINTS,
            "Mask source: point prompts for SAM.",
            example=[{"frame": 0, "x": 412.5, "y": 233, "positive": True}],
        ),
        _field(
            "mask_uri",
            pa.string(),
            "Mask source: a video, an image or a folder of PNGs. White is generated anew, black is kept.",
            example="masks/1987-04-02.mkv",
        ),
        _field(
            "protect",
            _PROTECT,
            "Regions that must not change: they are subtracted from every mask, after the mask has grown. No sample "
            "of them is written.",
            example={"targets": ["clock"]},
            tasks=PROTECT_TASKS,
        ),
        _field(
            "detector",
            pa.string(),
            "Detection or segmentation weights for `targets`: a path (.pt, .onnx, OpenVINO folder) or a release name. "
            "YOLOE and YOLO-World detect classes of any name; their text encoder (mobileclip_blt.ts, mobileclip2_b.ts "
            "or ViT-B-32.pt) and CLIP's tokenizer.json lie beside the weights.",
            example="yolo11n-seg.pt",
            default="the run's",
        ),
        _field(
            "segmenter",
            pa.string(),
            "SAM weights: SAM makes the masks from `points`, `boxes` or the detected boxes of `targets`. SAM 2 "
            "follows an object with points, or with a box on one frame, through its shot in both directions, and "
            "finds targets in frames where the detector fails.",
            example="sam2_t.pt",
            default="none; the run's for `points`",
        ),
        _field(
            "mask_shape",
            pa.string(),
            "Shape of each object's mask: mask (as found), filled (without holes), hull (convex hull) or box. A tight "
            "mask shows the model the object's outline.",
            example="hull",
            default="mask",
        ),
        _field(
            "mask_shadow",
            pa.string(),
            "auto also removes the object's shadow where the shadow can be told from the ground and the row protects "
            "nothing; off keeps shadows. Needs `background`.",
            example="off",
            default="auto",
            tasks=("removal",),
        ),
        _field(
            "background",
            pa.string(),
            "auto fills the mask with real pixels of other frames of the shot where they show the background; off "
            "generates all of the mask.",
            example="off",
            default="auto",
            tasks=("removal",),
        ),
        _field(
            "dilate",
            pa.string(),
            f"Growth of the mask: source pixels (0..{MAX_DILATION['px']}), percent of the object's longer side "
            f"(0..{MAX_DILATION['%']}) or the model's tokens (0..{MAX_DILATION['token']}). A token is 16 px, and more "
            "where the crop is shrunk for the model.",
            example="5%",
            default="6px; 3px for a mask file",
            unit="px, % or tokens",
        ),
        _field(
            "prompt",
            pa.string(),
            "Prompt. For removal: the clean scene or an empty text, never the object.",
            example="an empty street, film grain",
            default="empty",
        ),
        _field(
            "negative_prompt",
            pa.string(),
            "Negative prompt; an empty text: no negative prompt.",
            example="person",
            default=_FROM_PRESET,
        ),
        _field(
            "reference_uris",
            _list(pa.string()),
            f"Images of the subject or of the style, at most {MAX_REFERENCES}.",
            example=["refs/poster.png"],
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_boxes",
            _list(pa.struct(_rectangle("reference px"))),
            "The subject's box in each reference: a box for each reference, in order.",
            example=[{"x": 10, "y": 0, "width": 200, "height": 300}],
            default="whole images",
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_mask_uris",
            _list(pa.string()),
            "The subject's mask in each reference, white on black: a mask for each reference, in order. Pixels "
            "outside the mask become white.",
            example=["refs/poster-mask.png"],
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_mode",
            pa.string(),
            "Subject of the reference: plain (the whole image), subject (reference_boxes), salient (the part that "
            "stands out, cut out) or face (the largest face).",
            example="face",
            default="plain",
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_background",
            pa.string(),
            "white removes the background of the subject; keep keeps it.",
            example="white",
            default="keep",
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "control",
            pa.string(),
            "Control video that steers generation: depth, pose (bodies and faces), pose_body, flow, gray, scribble, "
            "layout_bbox (outlines of `boxes`), layout_track (boxes of the objects that the mask source finds) or "
            "plain (the frames themselves). Of two controls joined by '+', the second applies under the mask, the "
            "first elsewhere.",
            example="gray",
            default="required for restyle",
            tasks=CONTROL_TASKS,
        ),
        _field(
            "control_weights",
            pa.string(),
            "Weights for the controls depth (ultralytics depth), pose_body (ultralytics pose) and pose (ultralytics "
            "pose of COCO-WholeBody's 133 points): a path or a release name.",
            example="yolo26n-depth.pt",
            default="the run's",
            tasks=CONTROL_TASKS,
        ),
        _field(
            "expand",
            _EXPAND,
            "Growth of the frame on each side.",
            example={"left": 0.25, "right": 0.25},
            default="outpainting and compose expand: 0.25 on every side",
            tasks=EXPAND_TASKS,
        ),
        _field(
            "extend",
            _EXTEND,
            "Frames to generate beside known frames. New and known frames must fit into one window.",
            example={"mode": "first", "unit": "clip", "seconds": 1.0},
            default="required for extension, also in a composition",
            tasks=EXTEND_TASKS,
        ),
        _field(
            "compose",
            pa.string(),
            "reference, animate, swap, move or expand; or two processes joined by '+', each of repaint (the mask "
            "source), extension (`extend`) and control (`control`).",
            example="extension+control",
            default="required for composition",
            tasks=("composition",),
        ),
        _field(
            "start_s",
            pa.float64(),
            "First frame to change, by time; frames before are copied.",
            example=12.5,
            default="the start",
            unit="s",
        ),
        _field(
            "end_s",
            pa.float64(),
            "End of the frames to change, by time, excluded; later frames are copied.",
            example=20.0,
            default="the end",
            unit="s",
        ),
        _field("seed", pa.int64(), "Seed of the noise, 0 or more.", example=7, default="from the content"),
        _field(
            "seed_scope",
            pa.string(),
            "Windows that share a seed: window (none), shot (those of a shot), or programme (those of every video "
            "with the same `seed`, or the same prompt and references).",
            example="programme",
            default=_FROM_PRESET,
        ),
        _field(
            "priority",
            pa.int64(),
            f"Rows with a higher priority run first, {_span(PRIORITY_RANGE)}.",
            example=10,
            default="0",
        ),
        _field(
            "model",
            pa.string(),
            "Weights in the diffusers layout: a folder, hf://owner/name[@revision], a store's folder, tiny (built in).",
            example="Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            default="the run's",
        ),
        _field(
            "loras",
            _LORAS,
            "LoRAs fused into the model for this row, in place of the run's LoRAs: names of the run's LoRAs, or files "
            "below the run's --weights. An empty list: no LoRA.",
            example=[{"uri": "removal.safetensors", "weight": 1.0}],
            default="the run's",
        ),
        _field(
            "preset",
            pa.string(),
            "Named values of sampling, negative prompt and seed scope: removal, removal-lora, restyle, reference, "
            "fast or standard. Columns of the row win over the preset. removal-lora and fast need a LoRA: `--lora "
            "PRESET:FILE`.",
            example="removal-lora",
            default="the task's",
        ),
        _field(
            "sampling",
            _SAMPLING,
            "Overrides of the preset's and the model profile's sampling.",
            example={"num_inference_steps": 20, "flow_shift": 5.0, "mask_rule": "max4"},
            default=_FROM_PRESET,
        ),
        _field(
            "expect_found",
            pa.bool_(),
            "true: the row fails with nothing_found where nothing to change is found, instead of being skipped.",
            example=True,
            default="the run's",
        ),
        _field(
            "output_uri",
            pa.string(),
            "Output file, a relative path with its suffix below OUT/videos.",
            example="news/1987-04-02.mp4",
            default="a safe form of job_id, the source's suffix",
        ),
    ],
    metadata={VERSION_KEY: str(MANIFEST_VERSION)},
)

REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)
