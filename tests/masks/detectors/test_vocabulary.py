"""Open vocabularies: the real architectures of YOLOE and YOLO-World, random weights, and text encoders beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from vace_batch.errors import ClipError
from vace_batch.manifest.job import Job, Protect
from vace_batch.masks.detectors.vocabulary import ENCODERS, TOKENIZER, text_features, tokens_of
from vace_batch.masks.detectors.yolo import Detector, import_ultralytics
from vace_batch.masks.models import MaskModels

NAMES = ["red car", "dog", "a person on a bicycle"]


class Encoder(torch.nn.Module):
    """A text encoder with the input and output of MobileCLIP's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(2000, 512)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens).cumsum(1)[:, -1]


class Tree(torch.nn.Module):
    """Holds tensors under the names that openai/CLIP gives them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                parts.setdefault(first, {})[rest] = tensor
            else:
                self.register_parameter(first, torch.nn.Parameter(tensor, requires_grad=False))
        for name, inner in parts.items():
            self.add_module(name, Tree(inner))

    def forward(self) -> int:
        return 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer like CLIP's: pairs of letters; the two highest tokens begin and end a text."""
    made = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(NAMES * 3, trainers.BpeTrainer(vocab_size=90, end_of_word_suffix="</w>"))
    made.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    begin, end = (made.token_to_id(name) for name in ("<|startoftext|>", "<|endoftext|>"))
    made.post_processor = processors.RobertaProcessing(("<|endoftext|>", end), ("<|startoftext|>", begin))
    path = tmp_path_factory.mktemp("tokenizer") / TOKENIZER
    made.save(str(path))
    return path


def clip_weights(folder: Path, num_tokens: int) -> CLIPTextModelWithProjection:
    """A random text tower, saved as openai/CLIP's archives are."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=num_tokens, hidden_size=512, intermediate_size=2048, num_attention_heads=8, num_hidden_layers=2,
        projection_dim=512, max_position_embeddings=77, bos_token_id=num_tokens - 2, eos_token_id=num_tokens - 1,
    )  # fmt: skip
    tower = CLIPTextModelWithProjection(config).eval()
    theirs = {name.removeprefix("text_model."): tensor for name, tensor in tower.state_dict().items()}
    ours = {
        "token_embedding.weight": theirs["embeddings.token_embedding.weight"],
        "positional_embedding": theirs["embeddings.position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T.contiguous(),
        "ln_final.weight": theirs["final_layer_norm.weight"],
        "ln_final.bias": theirs["final_layer_norm.bias"],
        "visual.proj": torch.zeros(3),
    }
    for number in range(config.num_hidden_layers):
        old, new = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            parts = [theirs[f"{old}self_attn.{one}_proj.{kind}"] for one in "qkv"]
            ours[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
            ours[f"{new}attn.out_proj.{kind}"] = theirs[f"{old}self_attn.out_proj.{kind}"]
            for one, other in {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "ln_1": "layer_norm1"}.items():
                ours[f"{new}{one}.{kind}"] = theirs[f"{old}{other}.{kind}"]
            ours[f"{new}ln_2.{kind}"] = theirs[f"{old}layer_norm2.{kind}"]
    torch.jit.script(Tree(ours)).save(str(folder / ENCODERS["clip:ViT-B/32"]))
    return tower


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    """A folder of weights with the text encoders that they were trained with."""
    import_ultralytics()
    from ultralytics import YOLOE, YOLOWorld

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    YOLOE("yoloe-11n-seg.yaml").save(folder / "yoloe.pt")
    YOLOWorld("yolov8s-worldv2.yaml").save(folder / "world.pt")
    (folder / TOKENIZER).write_bytes(tokenizer.read_bytes())
    torch.jit.script(Encoder()).save(str(folder / ENCODERS["mobileclip:blt"]))
    clip_weights(folder, Tokenizer.from_file(str(tokenizer)).get_vocab_size())
    return folder


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 213, 3), np.uint8)


def code_of(error: pytest.ExceptionInfo[ClipError]) -> str:
    return error.value.code


@pytest.mark.parametrize("name", ["yoloe.pt", "world.pt"])
def test_any_name_is_found_once_it_is_told_and_what_was_told_before_does_not_matter(
    name: str, weights: Path, rgb: np.ndarray
) -> None:
    detector = MaskModels(detector=str(weights / name)).load_detector(None)
    assert detector.check_targets(["red  car", "Dog", "dog"]) == [0, 1]
    first = detector.detect(rgb, ["red car", "dog"], conf=1e-9)
    assert {one.label for one in first} <= {"red car", "dog"}
    assert detector.check_targets([NAMES[2]]) == [0]
    alone = detector.detect(rgb, [NAMES[2]], conf=1e-9)
    assert {one.label for one in alone} <= {NAMES[2]}
    assert first or alone, "something is found"
    assert detector.detect(rgb, ["red car", "dog"], conf=1e-9) == first


def test_a_vocabulary_that_was_saved_needs_no_encoder(weights: Path, tmp_path: Path) -> None:
    told = MaskModels(detector=str(weights / "yoloe.pt")).load_detector(None)
    told.check_targets(NAMES)
    assert isinstance(told, Detector)
    told._model.save(tmp_path / "told.pt")
    detector = Detector.load(str(tmp_path / "told.pt"))
    assert detector.check_targets(["dog"]) == [1] and list(detector.classes.values()) == NAMES
    with pytest.raises(ClipError, match=r"mobileclip_blt\.ts and tokenizer\.json") as error:
        detector.check_targets(["zebra"])
    assert code_of(error) == "no_text_encoder"


def test_an_encoder_that_lies_beside_what_a_row_names_must_be_allowed(weights: Path) -> None:
    digests = [hashlib.sha256((weights / name).read_bytes()).hexdigest() for name in ("yoloe.pt", "mobileclip_blt.ts")]
    job = Job(job_id="a", video_uri="-", task="removal", targets=("dog",), protect=Protect(), detector="yoloe.pt")
    for count in (1, 2):
        models = MaskModels(folders=(str(weights),), pickles=tuple(digests[:count]))
        decides = models.weights_of(job)
        assert ("detector mobileclip_blt.ts" in decides) == (count == 2) and "detector tokenizer.json" in decides
        detector = models.load_detector("yoloe.pt")
        if count == 2:
            assert detector.check_targets(["dog"]) == [0]
            continue
        with pytest.raises(ClipError) as error:
            detector.check_targets(["dog"])
        assert code_of(error) == "no_text_encoder"


def test_clip_s_text_tower_is_clip_s(tokenizer: Path, tmp_path: Path) -> None:
    tower = clip_weights(tmp_path, Tokenizer.from_file(str(tokenizer)).get_vocab_size())
    tokens = tokens_of(NAMES, str(tokenizer))
    with torch.inference_mode():
        true = torch.nn.functional.normalize(tower(input_ids=tokens.long()).text_embeds, dim=-1)
    made = text_features(NAMES, "clip:ViT-B/32", [str(tokenizer), str(tmp_path / "ViT-B-32.pt")])
    assert made.shape == (1, 3, 512) and float((made[0] - true).abs().max()) < 1e-5


def test_tokens_end_and_are_padded_as_clip_s(tokenizer: Path) -> None:
    tokens = tokens_of([*NAMES, "dog " * 200], str(tokenizer))
    end = int(tokens.max())
    assert tokens.shape == (4, 77) and (tokens == end).sum(dim=1).tolist() == [1] * 4
    assert (tokens[:, 0] == end - 1).all() and int(tokens[3, -1]) == end
    assert (tokens[0, int(tokens[0].argmax()) + 1 :] == 0).all()


@pytest.mark.parametrize("broken", ["mobileclip_blt.ts", TOKENIZER])
def test_an_encoder_that_is_damaged_fails_the_row(broken: str, weights: Path, tmp_path: Path) -> None:
    files: list[Any] = []
    for name in ("mobileclip_blt.ts", TOKENIZER):
        (tmp_path / name).write_bytes(b"?" if name == broken else (weights / name).read_bytes())
        files.append(str(tmp_path / name))
    with pytest.raises(ClipError, match=broken.replace(".", r"\.")) as error:
        text_features(NAMES, "mobileclip:blt", files)
    assert code_of(error) == "no_text_encoder"
    with pytest.raises(ClipError, match="not known"):
        text_features(NAMES, "siglip", files)
