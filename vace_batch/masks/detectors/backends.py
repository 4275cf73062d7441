"""Run exported models on a CPU, in OpenVINO or ONNX Runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from vace_batch.errors import ClipError
from vace_batch.geometry import Size
from vace_batch.masks.weights import network_of

Floats = npt.NDArray[np.float32]
Network = Callable[[Floats], list[Floats]]
"""A loaded network: (1,3,H,W) in 0..1 to its outputs."""


@cache
def has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 in hardware; OpenVINO is then 2.4 times as fast as ONNX Runtime."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def backend() -> str:
    """Return the runtime of exported models: openvino if it is installed and the CPU has bfloat16, else onnxruntime."""
    return "openvino" if has_bfloat16() and importlib.util.find_spec("openvino") else "onnxruntime"


def metadata_of(weights: str, threads: int) -> dict[str, str]:
    """Read the metadata that ultralytics writes into an export, each value as text."""
    network = network_of(weights)
    if network is None:
        return dict(_runtime_session(weights, threads, None).get_modelmeta().custom_metadata_map)
    if not importlib.util.find_spec("openvino"):
        raise ClipError("no_openvino", f"weights {weights} need openvino: pip install 'vace-batch[openvino]'")
    metadata = yaml.safe_load(Path(weights, "metadata.yaml").read_text(encoding="utf-8"))
    _read_openvino(weights)
    return {name: str(value) for name, value in metadata.items()}


def _read_openvino(weights: str) -> Any:
    import openvino

    return openvino.Core().read_model(network_of(weights) or weights)


def open_session(weights: str, threads: int, network: Size, *, exact: bool = False) -> Network:
    """Open an export for images of the size `network`. `exact`: in float32, and an ONNX file in ONNX Runtime."""
    if network_of(weights) or (backend() == "openvino" and not exact):
        return _openvino_session(weights, threads, network, "bf16" if has_bfloat16() and not exact else "f32")
    session = _runtime_session(weights, threads, network)
    name = session.get_inputs()[0].name
    return lambda images: list(session.run(None, {name: images}))


def _runtime_session(weights: str, threads: int, network: Size | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads of one actor would take the cores that belong to the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if network is None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        for name, value in {"batch": 1, "height": network.height, "width": network.width}.items():
            options.add_free_dimension_override_by_name(name, value)
    return onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])


def _openvino_session(weights: str, threads: int, network: Size, precision: str) -> Network:
    import openvino

    model = _read_openvino(weights)
    if model.is_dynamic():
        model.reshape([1, 3, network.height, network.width])
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(images: Floats) -> list[Floats]:
        request.infer([images], share_inputs=True)
        return [request.get_output_tensor(number).data for number in range(len(compiled.outputs))]

    return run


@cache
def load_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime and of a foreign file's metadata."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    named = ("Fail", "InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NotImplemented", "NoModel", "NoSuchFile")
    own = tuple(getattr(state, name) for name in (*named, "RuntimeException") if hasattr(state, name))
    return (*own, AttributeError, KeyError, OSError, RuntimeError, SyntaxError, TypeError, ValueError, yaml.YAMLError)
