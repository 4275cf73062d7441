"""Write the column dictionary and the example manifests from the schema: `python -m vace_batch.manifest.docs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from vace_batch.manifest.builder import write_manifest
from vace_batch.manifest.choices import TASKS
from vace_batch.manifest.schema import MANIFEST_VERSION, SCHEMA

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"

_BOX = {"frame": None, "object_id": 0, "x": 412.0, "y": 96.0, "width": 120.0, "height": 64.0}

EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "removal_by_class": [
        {
            "job_id": "street/1987-04-02",
            "video_uri": "../videos/street/1987-04-02.mov",
            "task": "removal",
            "targets": ["person", "bicycle"],
            "mask_shape": "hull",
            "dilate": "5%",
        },
        {
            "job_id": "street/1987-04-03",
            "video_uri": "../videos/street/1987-04-03.mov",
            "task": "removal",
            "targets": ["car"],
            "dilate": "8px",
            "protect": {"targets": ["bus"], "boxes": None, "mask_uri": None},
            "start_s": 12.5,
            "end_s": 40.0,
            "priority": 10,
        },
    ],
    "removal_by_box": [
        {
            "job_id": "logo",
            "video_uri": "../videos/news.mp4",
            "task": "removal",
            "boxes": [_BOX],
        },
        {
            "job_id": "moving-ball",
            "video_uri": "../videos/match.mp4",
            "task": "removal",
            "boxes": [
                {**_BOX, "frame": 0, "width": 48.0, "height": 48.0},
                {**_BOX, "frame": 30, "x": 600.0, "width": 48.0, "height": 48.0},
            ],
            "seed": 7,
        },
    ],
    "removal_by_mask": [
        {
            "job_id": "wires",
            "video_uri": "../videos/stunt.mkv",
            "task": "removal",
            "mask_uri": "../masks/stunt.mkv",
            "dilate": "4px",
            "sampling": {"num_inference_steps": 20, "flow_shift": 5.0, "mask_rule": "max4"},
        },
        {
            "job_id": "time-code",
            "video_uri": "../videos/rushes.mp4",
            "task": "removal",
            "mask_uri": "../masks/time-code.png",
        },
    ],
    "removal_by_sam": [
        {
            "job_id": "dog",
            "video_uri": "../videos/park.mp4",
            "task": "removal",
            "points": [
                {"frame": 0, "object_id": 0, "x": 412.5, "y": 233.0, "positive": True},
                {"frame": 0, "object_id": 0, "x": 500.0, "y": 80.0, "positive": False},
            ],
            "segmenter": "sam2_t.pt",
        },
        {
            "job_id": "people",
            "video_uri": "../videos/station.mp4",
            "task": "removal",
            "targets": ["person"],
            "segmenter": "mobile_sam.pt",
        },
    ],
    "restyle": [
        {
            "job_id": "pencil",
            "video_uri": "../videos/harbour.mp4",
            "task": "restyle",
            "control": "scribble",
            "prompt": "a pencil drawing of a harbour, soft shading",
            "negative_prompt": "photograph",
        },
        {
            "job_id": "poster",
            "video_uri": "../videos/harbour.mp4",
            "task": "restyle",
            "control": "gray",
            "prompt": "a travel poster of the thirties",
            "reference_uris": ["../references/poster.png"],
            "reference_boxes": [{"x": 20.0, "y": 12.0, "width": 600.0, "height": 880.0}],
        },
    ],
    "generation": [
        {
            "job_id": "text-to-video",
            "video_uri": "../videos/harbour.mp4",
            "task": "t2v",
            "prompt": "a harbour in the snow",
        },
        {
            "job_id": "references-to-video",
            "video_uri": "../videos/harbour.mp4",
            "task": "r2v",
            "prompt": "the woman walks along a harbour",
            "reference_uris": ["../references/woman.jpg"],
            "reference_mode": "face",
            "reference_background": "white",
            "seed": 7,
            "seed_scope": "programme",
        },
    ],
    "outpainting": [
        {
            "job_id": "wide-screen",
            "video_uri": "../videos/news.mp4",
            "task": "outpainting",
            "expand": {"left": 0.17, "right": 0.17, "up": None, "down": None, "inner": None},
        },
        {
            "job_id": "worn-edge",
            "video_uri": "../videos/news.mp4",
            "task": "outpainting",
            "expand": {"left": None, "right": None, "up": None, "down": 0.05, "inner": True},
        },
    ],
    "extension": [
        {
            "job_id": "a-second-more",
            "video_uri": "../videos/match.mp4",
            "task": "extension",
            "extend": {"mode": "first", "unit": "clip", "seconds": 1.0},
            "prompt": "the ball rolls on",
        },
        {
            "job_id": "torn-frames",
            "video_uri": "../videos/match.mp4",
            "task": "extension",
            "extend": {"mode": "firstlast", "unit": "clip", "seconds": None},
            "start_s": 4.0,
            "end_s": 4.5,
        },
    ],
    "composition": [
        {
            "job_id": "swap",
            "video_uri": "../videos/street.mp4",
            "task": "composition",
            "compose": "swap",
            "targets": ["car"],
            "mask_shape": "box",
            "prompt": "a red bus",
            "reference_uris": ["../references/bus.png"],
            "reference_mode": "salient",
        },
        {
            "job_id": "move",
            "video_uri": "../videos/street.mp4",
            "task": "composition",
            "compose": "move",
            "control": "layout_bbox",
            "boxes": [
                {**_BOX, "frame": 0, "width": 48.0, "height": 48.0},
                {**_BOX, "frame": 30, "x": 600.0, "width": 48.0, "height": 48.0},
            ],
            "prompt": "a ball flies across the street",
            "extend": {"mode": "first", "unit": "frame", "seconds": None},
        },
        {
            "job_id": "keep-and-steer",
            "video_uri": "../videos/street.mp4",
            "task": "composition",
            "compose": "extension+control",
            "control": "flow",
            "prompt": "the street at night",
            "extend": {"mode": "first", "unit": "frame", "seconds": None},
            "preset": "reference",
        },
    ],
}

_HEAD = f"""\
<!-- Made by `python -m vace_batch.manifest.docs` from vace_batch/manifest/schema.py: change it there. -->
# The manifest

A Parquet file with a row for each job: one video, one task. Schema version {MANIFEST_VERSION}.

- `vace-batch manifest PREFIX -o FILE` makes a manifest from a folder, a bucket prefix or a CSV (lists and structs as
  JSON); `vace-batch validate FILE` reports every fault of every row at once.
- A column or a value that is left out has its default. Unknown columns are faults, unless their name starts with `x_`.
- Narrower integers, large or dictionary-encoded text and columns of nulls are accepted.
- Pixels are display pixels of the source (rotation applied), from the top left. Frames count from 0.
- URIs are taken literally (`%2F`, `*` and `{{}}` are parts of a name). Relative URIs start at the manifest's folder.
- `removal` and `inpainting` need exactly one source of masks: `targets`, `boxes`, `points` or `mask_uri`. SAM makes the
  masks from `points`, or from `boxes` or `targets` when `segmenter` is given. `restyle` needs `control`, and a `prompt`
  or references; without a source of masks whole frames are restyled.
- `t2v` and `r2v` take size, frame rate, length and sound from `video_uri`, and none of its frames.
- `extension` generates `start_s` to `end_s` anew in place, or, with `extend.seconds`, adds frames.
- A `preset` names values of sampling, negative prompt and seed scope; `vace-batch plan --json` shows what a row gets.
- `loras` are for one row alone; without the column a row gets the LoRAs of the run (`--lora`).

```python
import pyarrow as pa, pyarrow.parquet as pq
from vace_batch.manifest.schema import SCHEMA  # without the schema pyarrow keeps only the columns of the first row
rows = [{{"job_id": "a", "video_uri": "videos/a.mp4", "task": "removal", "targets": ["person"], "dilate": "5%"}}]
pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), "manifest.parquet")
```

Examples: {", ".join(f"[{name}](examples/{name}.parquet)" for name in EXAMPLES)}.

## Columns
| column | type | meaning | unit | default | example | tasks |
|---|---|---|---|---|---|---|
"""


def column_dictionary() -> str:
    """Return the text of manifests/README.md."""
    return _HEAD + "".join(f"{line}\n" for field in SCHEMA for line in _lines(field, field.name))


def example_table(name: str) -> pa.Table:
    """Return one of EXAMPLES as a table of the columns that the example uses."""
    rows = EXAMPLES[name]
    parts = [field for field in SCHEMA if any(field.name in row for row in rows)]
    return pa.Table.from_pylist(rows, schema=pa.schema(parts, metadata=SCHEMA.metadata))


def _lines(field: pa.Field, path: str) -> Iterator[str]:
    text = {key.decode(): value.decode() for key, value in field.metadata.items()}
    example = f"`{text['example']}`" if "example" in text else ""
    cells = (f"`{path}`", _type(field.type), text["description"], text["unit"], text["default"], example)
    yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (*cells, _tasks(text["tasks"], path))) + " |"
    type_ = field.type
    if pa.types.is_list(type_):
        type_, path = type_.value_type, f"{path}[]"
    if pa.types.is_struct(type_):
        for part in type_:
            yield from _lines(part, f"{path}.{part.name}")


def _tasks(tasks: str, path: str) -> str:
    if "." in path:
        return ""
    return "all" if tasks == ", ".join(TASKS) else tasks


def _type(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"list of {_type(type_.value_type)}"
    return "struct" if pa.types.is_struct(type_) else str(type_)


def main() -> None:
    (MANIFESTS / "README.md").write_text(column_dictionary(), encoding="utf-8")
    for name in EXAMPLES:
        write_manifest(example_table(name), str(MANIFESTS / "examples" / f"{name}.parquet"))


if __name__ == "__main__":
    main()
