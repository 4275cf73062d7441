"""The manifest's columns: one pyarrow schema whose metadata is the documentation.

Each field carries description, unit, example, default and tasks; `vace_batch.manifest.docs` makes the column dictionary
from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from vace_batch.errors import Fault
from vace_batch.manifest.choices import CONTROL_TASKS, EXPAND_TASKS, EXTEND_TASKS, PROTECT_TASKS, REFERENCE_TASKS, TASKS

SCHEMA_VERSION = 1
VERSION_KEY = "vace_batch.schema_version"

FREE_PREFIX = "x_"


def _field(
    name: str,
    type_: Any,
    description: str,
    *,
    example: object = None,
    default: str = "none",
    unit: str = "",
    tasks: Sequence[str] = TASKS,
) -> Any:
    metadata = {"description": description, "unit": unit, "default": default, "tasks": ", ".join(tasks)}
    if example is not None:
        metadata["example"] = json.dumps(example, ensure_ascii=False)
    return pa.field(name, type_, nullable=default != "required", metadata=metadata)


def _list(type_: Any) -> Any:
    # Parquet's own word for the values of a list: with another one the type would change on its way through a file.
    return pa.list_(pa.field("element", type_))


def _rectangle(unit: str = "display px") -> list[Any]:
    return [
        _field("x", pa.float64(), "left edge", unit=unit, default="required"),
        _field("y", pa.float64(), "top edge", unit=unit, default="required"),
        _field("width", pa.float64(), "width, above 0", unit=unit, default="required"),
        _field("height", pa.float64(), "height, above 0", unit=unit, default="required"),
    ]


def _boxes() -> Any:
    frame = _field("frame", pa.int64(), "keyframe; empty: the box holds for the whole clip", unit="frame")
    track = _field("object_id", pa.int64(), "which object's track the keyframe belongs to", default="0")
    return _list(pa.struct([frame, track, *_rectangle()]))


_POINTS = _list(
    pa.struct(
        [
            _field("frame", pa.int64(), "frame that the point is on", unit="frame", default="0"),
            _field("object_id", pa.int64(), "which object the point belongs to", default="0"),
            _field("x", pa.float64(), "column", unit="display px", default="required"),
            _field("y", pa.float64(), "row", unit="display px", default="required"),
            _field("positive", pa.bool_(), "false: the point is on the background", default="true"),
        ]
    )
)

_PICK = pa.struct(
    [
        _field("exclude", _list(pa.string()), "classes that are found and left alone"),
        _field("largest", pa.bool_(), "true: only the largest object of each shot", default="false"),
        _field("tracks", _list(pa.int64()), "only the objects of these numbers, as `vace-batch masks` shows them"),
    ]
)

_PROTECT = pa.struct(
    [
        _field("targets", _list(pa.string()), "classes whose pixels are kept"),
        _field("boxes", _boxes(), "areas that are kept"),
        _field("mask_uri", pa.string(), "mask whose white pixels are kept"),
    ]
)

_EXPAND = pa.struct(
    [
        _field("left", pa.float64(), "share of the width, 0..1", default="0"),
        _field("right", pa.float64(), "share of the width, 0..1", default="0"),
        _field("up", pa.float64(), "share of the height, 0..1", default="0"),
        _field("down", pa.float64(), "share of the height, 0..1", default="0"),
        _field("inner", pa.bool_(), "true: the size stays, the sides of the picture are made anew", default="false"),
    ]
)

_EXTEND = pa.struct(
    [
        _field(
            "mode", pa.string(), "what is known: first, last or firstlast; the other frames are new", default="first"
        ),
        _field("unit", pa.string(), "how much of it is shown: one frame, or as many as fit (clip)", default="clip"),
        _field("seconds", pa.float64(), "the clip grows by this much; empty: start_s to end_s is made anew", unit="s"),
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
            _field("weight", pa.float64(), "how much of it, -4..4", default="1"),
            _field(
                "expert", pa.string(), "into which transformer of a model that has two: both, high, low", default="both"
            ),
        ]
    )
)

_FROM_PROFILE = "the model profile's"
_FROM_PRESET = "the preset's"

_SAMPLING = pa.struct(
    [
        _field("num_inference_steps", pa.int64(), "denoising steps, 1..200", default=_FROM_PROFILE),
        _field(
            "guidance_scale", pa.float64(), "classifier-free guidance, 0..30; 1 or less: off", default=_FROM_PROFILE
        ),
        _field("guidance_scale_2", pa.float64(), "that of a model's second expert, 0..30", default="guidance_scale"),
        _field("boundary_ratio", pa.float64(), "noise, 0..1, below which that expert works", default="the model's"),
        _field("flow_shift", pa.float64(), "shift of the flow schedule, 0.1..50", default=_FROM_PROFILE),
        _field("conditioning_scale", pa.float64(), "weight of VACE's context branch, 0..4", default=_FROM_PROFILE),
        _field("mask_rule", pa.string(), "the mask in time: nearest (stock) or max4 (maximum of each four)"),
        _field("guidance_from", pa.float64(), "share of the steps before guidance begins, 0..1", default="0"),
        _field("guidance_until", pa.float64(), "share of the steps after which guidance ends, 0..1", default="1"),
        _field(
            "step_cache",
            pa.float64(),
            "change of the first block up to which a step reuses the last one's rest, 0..0.99; faster, not exact",
            default="0, off",
        ),
        _field("max_tokens", pa.int64(), "largest window, 64 or more; crops are shrunk to it", default=_FROM_PROFILE),
        _field("max_frames", pa.int64(), "longest window, 4n+1 in 5..241", unit="frames", default=_FROM_PROFILE),
        _field(
            "overlap_frames",
            pa.int64(),
            "overlap of neighbouring windows, below max_frames",
            unit="frames",
            default=_FROM_PROFILE,
        ),
    ]
)

SCHEMA = pa.schema(
    [
        _field(
            "job_id",
            pa.string(),
            "Name of the row, unique in the manifest; names the output file.",
            example="news/1987-04-02",
            default="required",
        ),
        _field(
            "video_uri",
            pa.string(),
            "Source video: a path, file://, s3://, gs://, az://, abfs:// or memory://; taken literally, "
            "relative to the manifest's folder.",
            example="videos/1987-04-02.mov",
            default="required",
        ),
        _field("task", pa.string(), f"{', '.join(TASKS[:-1])} or {TASKS[-1]}.", example="removal", default="required"),
        _field(
            "targets",
            _list(pa.string()),
            "Mask source: classes of the detector; @text is burned-in text, @overlay a logo: what stands still "
            "while all else moves. With `segmenter`, their boxes prompt SAM.",
            example=["person", "car"],
        ),
        _field(
            "pick",
            _PICK,
            "Which of the objects that `targets` find are meant.",
            example={"largest": True},
            default="all of them",
        ),
        _field(
            "boxes",
            _boxes(),
            "Mask source: boxes, still or keyframed. Keyframes of one object are joined by straight lines; it exists "
            "from its first to its last. With `segmenter`, they prompt SAM.",
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
            "Mask source: a video, one image or a folder of PNGs; white is remade, black is kept.",
            example="masks/1987-04-02.mkv",
        ),
        _field(
            "protect",
            _PROTECT,
            "What must not change: taken out of every mask, and wins over all that grows: no sample of it is written.",
            example={"targets": ["clock"]},
            tasks=PROTECT_TASKS,
        ),
        _field(
            "detector",
            pa.string(),
            "Detection or segmentation weights for `targets`: a path (.pt, .onnx, OpenVINO folder) or a release name. "
            "YOLOE and YOLO-World take any name, by the text encoder (mobileclip_blt.ts, mobileclip2_b.ts or "
            "ViT-B-32.pt) and CLIP's tokenizer.json that lie beside them.",
            example="yolo11n-seg.pt",
            default="the run's",
        ),
        _field(
            "segmenter",
            pa.string(),
            "SAM weights: masks by SAM, prompted by `points`, `boxes` or the boxes of `targets`. SAM 2 follows what "
            "has points, or a box on one frame, over its shot both ways, and finds targets where the detector fails.",
            example="sam2_t.pt",
            default="none; the run's for `points`",
        ),
        _field(
            "mask_shape",
            pa.string(),
            "mask as found, filled (without its holes), its convex hull, or its box. A tight mask's shape gives the "
            "object away.",
            example="hull",
            default="mask",
        ),
        _field(
            "mask_shadow",
            pa.string(),
            "auto takes the shadow attached to the object along where it can be told from the ground, unless something"
            " is protected; off leaves shadows. Needs the background.",
            example="off",
            default="auto",
            tasks=("removal",),
        ),
        _field(
            "background",
            pa.string(),
            "auto fills what other frames of the shot show with those real pixels; off leaves all to the model.",
            example="off",
            default="auto",
            tasks=("removal",),
        ),
        _field(
            "dilate",
            pa.string(),
            "How far a mask grows: source pixels (0..1000), percent of the object's longer side (0..200) or "
            "the model's tokens (0..16), of 16 px or, where a crop is shown smaller than it is, of as much more.",
            example="5%",
            default="6px; 3px for a mask file",
            unit="px, % or tokens",
        ),
        _field(
            "prompt",
            pa.string(),
            "What is to be seen. For removal: the clean scene or nothing, never the object.",
            example="an empty street, film grain",
            default="empty",
        ),
        _field(
            "negative_prompt",
            pa.string(),
            "What is not to be seen; an empty text means none.",
            example="person",
            default=_FROM_PRESET,
        ),
        _field(
            "reference_uris",
            _list(pa.string()),
            "Images of the subject or the style, at most 8.",
            example=["refs/poster.png"],
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_boxes",
            _list(pa.struct(_rectangle("reference px"))),
            "The subject's box in each reference, one for each, in order.",
            example=[{"x": 10, "y": 0, "width": 200, "height": 300}],
            default="whole images",
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_mask_uris",
            _list(pa.string()),
            "The subject's mask in each reference, white on black, one for each, in order: all else becomes white.",
            example=["refs/poster-mask.png"],
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_mode",
            pa.string(),
            "How the subject is found: plain (the whole image), subject (reference_boxes), salient (what stands out, "
            "cut out) or face (the largest).",
            example="face",
            default="plain",
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "reference_background",
            pa.string(),
            "white removes what is round the subject; keep leaves it.",
            example="white",
            default="keep",
            tasks=REFERENCE_TASKS,
        ),
        _field(
            "control",
            pa.string(),
            "What steers the picture: depth, pose (bodies and faces), pose_body, flow, gray, scribble, layout_bbox "
            "(outlines of `boxes`), layout_track (boxes of what the mask source finds) or plain (the frames "
            "themselves). Two joined by '+': the second rules under the mask, the first elsewhere.",
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
            "How far the picture grows, side by side.",
            example={"left": 0.25, "right": 0.25},
            default="outpainting and compose expand: 0.25 on every side",
            tasks=EXPAND_TASKS,
        ),
        _field(
            "extend",
            _EXTEND,
            "Which frames are new. All of them and what is known must fit into one window.",
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
            "From here on frames are worked on; the others are copied.",
            example=12.5,
            default="the start",
            unit="s",
        ),
        _field(
            "end_s",
            pa.float64(),
            "Up to here frames are worked on, this moment excluded.",
            example=20.0,
            default="the end",
            unit="s",
        ),
        _field("seed", pa.int64(), "Seed of the noise, 0 or more.", example=7, default="from the content"),
        _field(
            "seed_scope",
            pa.string(),
            "What shares one seed: window (each its own), shot, or programme (every video with the same `seed`, or the "
            "same prompt and references).",
            example="programme",
            default=_FROM_PRESET,
        ),
        _field("priority", pa.int64(), "Higher goes first, -1000..1000.", example=10, default="0"),
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
            "LoRAs fused into the model for this row, in place of the run's: the run's own by name, or files below its "
            "--weights. An empty list: none.",
            example=[{"uri": "removal.safetensors", "weight": 1.0}],
            default="the run's",
        ),
        _field(
            "preset",
            pa.string(),
            "Named values of sampling, negative prompt and seed scope: removal, removal-lora, restyle, reference, fast "
            "or standard. Columns of the row win over it. removal-lora and fast want a LoRA: `--lora PRESET:FILE`.",
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
            "output_uri",
            pa.string(),
            "Output file, a relative path with its suffix below OUT/videos.",
            example="news/1987-04-02.mp4",
            default="a safe form of job_id, the source's suffix",
        ),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)

REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)


def type_faults(actual: Any, wanted: Any, at: str) -> Iterator[Fault]:
    """Where a column of type `actual` cannot be read as `wanted` without loss.

    Accepted beside equal types: narrower or unsigned integers, any number for a float, the large, view and dictionary
    forms of text, any kind of list, structs that lack optional fields, and null.
    """
    actual = actual.value_type if pa.types.is_dictionary(actual) else actual
    if pa.types.is_null(actual) or _same_kind(actual, wanted):
        return
    if pa.types.is_list(wanted) and _is_list(actual):
        yield from type_faults(actual.value_type, wanted.value_type, f"{at}[]")
    elif pa.types.is_struct(wanted) and pa.types.is_struct(actual):
        yield from _struct_faults(actual, wanted, at)
    else:
        yield Fault(at, _shown(actual), _shown(wanted))


def _same_kind(actual: Any, wanted: Any) -> bool:
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(actual) or pa.types.is_large_string(actual) or pa.types.is_string_view(actual))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(actual) or pa.types.is_integer(actual))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(actual))
    return bool(actual == wanted and not pa.types.is_nested(actual))


def _is_list(actual: Any) -> bool:
    kinds = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, kind)(actual) for kind in kinds)


def _struct_faults(actual: Any, wanted: Any, at: str) -> Iterator[Fault]:
    parts = {part.name: part for part in wanted}
    seen: set[str] = set()
    for part in actual:
        if part.name in seen:
            yield Fault(f"{at}.{part.name}", "the field twice", "each field once")
        elif part.name not in parts:
            yield Fault(f"{at}.{part.name}", "an unknown field", f"one of {', '.join(parts)}")
        else:
            yield from type_faults(part.type, parts[part.name].type, f"{at}.{part.name}")
        seen.add(part.name)
    for part in wanted:
        if not part.nullable and part.name not in seen:
            yield Fault(f"{at}.{part.name}", "no such field", _shown(part.type))


def _shown(type_: Any) -> str:
    text = str(type_).replace(" not null", "")
    return text if len(text) <= 60 else text[:57] + "..."
