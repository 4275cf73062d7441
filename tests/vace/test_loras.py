"""The LoRAs of a job, and their part in its identity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vace_batch.batch.identity import works_of
from vace_batch.cli.parsing import parse_lora
from vace_batch.errors import ClipError, UsageError
from vace_batch.manifest.job import Job, LoraRef
from vace_batch.options import LoraOption, Options
from vace_batch.steps.admission import admit
from vace_batch.steps.clip import ClipWork
from vace_batch.storage.roots import Roots
from vace_batch.vace.loras import lora_refs, resolve_loras


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("a.safetensors", LoraOption(uri="a.safetensors")),
        ("a.safetensors=0.5", LoraOption(uri="a.safetensors", weight=0.5)),
        ("removal-lora:/w/a.safetensors=-1", LoraOption(uri="/w/a.safetensors", weight=-1, preset="removal-lora")),
        ("s3://b/k=v/a.safetensors", LoraOption(uri="s3://b/k=v/a.safetensors")),
        ("fast:low:b.safetensors", LoraOption(uri="b.safetensors", preset="fast", expert="low")),
        ("fast:hf://o/n@v1/a.safetensors=2", LoraOption(uri="hf://o/n@v1/a.safetensors", weight=2, preset="fast")),
    ],
)
def test_the_command_line_names_file_weight_and_preset(text: str, option: LoraOption) -> None:
    assert parse_lora(text) == option


@pytest.mark.parametrize("text", ["a.pt", "a.safetensors=5", "slow:a.bin=1", "", "=1", "a.safetensors=x"])
def test_what_the_command_line_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="--lora"):
        parse_lora(text)


def job(**fields: object) -> Job:
    return Job(**({"job_id": "j", "video_uri": "v.mp4", "task": "removal"} | fields))  # type: ignore[arg-type]


def names(job: Job, options: Options) -> list[tuple[str, float]]:
    return [(Path(ref.uri).name, ref.weight) for ref in lora_refs(job, options)]


def test_a_row_gets_the_run_s_for_its_preset_unless_it_names_its_own() -> None:
    given = ("all.safetensors=0.5", "removal-lora:gone.safetensors", "fast:quick.safetensors")
    options = Options(loras=tuple(map(parse_lora, given)))
    assert names(job(), options) == [("all.safetensors", 0.5)]
    assert names(job(preset="removal-lora"), options) == [("all.safetensors", 0.5), ("gone.safetensors", 1.0)]
    assert names(job(preset="fast"), options) == [("all.safetensors", 0.5), ("quick.safetensors", 1.0)]
    assert names(job(loras=()), options) == []
    own = job(preset="fast", loras=(LoraRef(uri="gone.safetensors", weight=0.25),))
    assert names(own, options) == [("gone.safetensors", 0.25)]


def test_a_row_reaches_the_run_s_loras_and_its_weights_folders_only(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.safetensors", "outside.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "in" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    options = Options(weights_folders=(str(tmp_path / "in"), "s3://weights/loras", "hf://owner/name"))
    for name in ("a.safetensors", str(tmp_path / "in/a.safetensors")):
        assert lora_refs(job(loras=(LoraRef(uri=name),)), options)[0].uri == str(tmp_path / "in/a.safetensors")
    for name in ("s3://weights/loras/x.safetensors", "hf://owner/name@v2/x.safetensors"):
        assert lora_refs(job(loras=(LoraRef(uri=name),)), options)[0].uri == name
    refused = ("../outside.safetensors", "link.safetensors", str(tmp_path / "outside.safetensors"))
    for name in (
        *refused,
        "s3://other/x.safetensors",
        "hf://owner/other/x.safetensors",
        "s3://weights/loras/../x.safetensors",
    ):
        with pytest.raises(ClipError, match="weights_not_allowed: loras: "):
            admit(job(loras=(LoraRef(uri=name),)), Roots.of(["/"]), replace_roots(options, name))


def replace_roots(options: Options, name: str) -> Options:
    """A relative name may also be a key of a store's folder; only the local one is asked here."""
    return options if "://" in name else options.model_copy(update={"weights_folders": options.weights_folders[:1]})


def test_a_missing_file_is_the_run_s_fault_or_the_row_s(tmp_path: Path) -> None:
    options = Options(loras=(LoraOption(uri=str(tmp_path / "none.safetensors")),))
    with pytest.raises(UsageError, match="none.safetensors: no such file"):
        resolve_loras(job(), options)
    with pytest.raises(ClipError, match="lora_unusable: .*none.safetensors: no such file"):
        resolve_loras(job(loras=(LoraRef(uri="none.safetensors"),)), options)


def test_content_and_weight_are_identity_place_is_not(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    (tmp_path / "v.mp4").write_bytes(b"video")

    def work(*loras: str) -> ClipWork:
        chosen = tuple(parse_lora(f"{tmp_path}/{text}") for text in loras)
        asked = job(video_uri=str(tmp_path / "v.mp4"))
        return works_of([asked], str(tmp_path / "out"), Options(loras=chosen), str(tmp_path))[0]

    texts = ((), ("a.safetensors",), ("c.safetensors",), ("a.safetensors=0.5",), ("a.safetensors", "c.safetensors"))
    keys = {work(*text).clip_key for text in texts}
    assert len(keys) == len(texts)
    assert work("b.safetensors").clip_key == work("a.safetensors").clip_key
    assert work("a.safetensors").prep_key == work().prep_key
    (recorded,) = work("a.safetensors=0.5").settings["sampling"]["loras"]
    assert recorded == {
        "uri": str(tmp_path / "a.safetensors"), "revision": recorded["revision"], "weight": 0.5, "expert": "both"
    } and len(recorded["revision"]) == 32  # fmt: skip


def test_a_row_that_was_refused_when_planned_never_runs_without_its_lora(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"video")
    asked = job(video_uri=str(tmp_path / "v.mp4"), loras=(LoraRef(uri="late.safetensors"),))
    options = Options(weights_folders=(str(tmp_path),))
    (work,) = works_of([asked], str(tmp_path / "out"), options, str(tmp_path))
    (tmp_path / "late.safetensors").write_bytes(b"now it is there")
    from vace_batch.masks.models import MaskModels
    from vace_batch.steps.prepare import survey

    with pytest.raises(ClipError, match="lora_unusable"):
        survey(replace(work), MaskModels(), tmp_path)
