"""The code that actors run: the setup of each pool, and each step of `steps/` as a worker function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vace_batch import log
from vace_batch.cluster.units import Call, Finish, Outcome
from vace_batch.errors import ClipError
from vace_batch.imports import quick_imports
from vace_batch.masks.models import MaskModels
from vace_batch.options import EngineSettings
from vace_batch.steps import build as build_step
from vace_batch.steps import generate as generate_step
from vace_batch.steps import keep as keep_step
from vace_batch.steps import measure as measure_step
from vace_batch.steps import prepare as prepare_step
from vace_batch.steps import select_best as select_best_step
from vace_batch.steps import stitch as stitch_step
from vace_batch.steps.clip import ClipWork

if TYPE_CHECKING:
    from vace_batch.vace.engine import VaceEngine


class Engines:
    """The model of a GPU actor: loaded once, replaced when a job asks for another.

    `prompts_uri` is the folder of the run's shared prompt embeddings, `texts` the run's prompts by model.
    """

    def __init__(self, settings: EngineSettings, prompts_uri: str | None, texts: Mapping[str, Sequence[str]]) -> None:
        self._settings = settings
        self._prompts_uri = prompts_uri
        self._texts = texts
        self._loaded: tuple[str, str] | None = None
        self._engine: VaceEngine | None = None

    def get(self, ref: str, revision: str) -> VaceEngine:
        """Return the engine of model `ref` at the planned revision.

        Raises:
            UsageError: the model cannot be loaded.
        """
        if self._engine is None or not self._engine.usable or (ref, revision) != self._loaded:
            with quick_imports():
                from vace_batch.vace.loading import open_engine

            settings = self._settings
            if self._engine is not None:
                self._engine.close()
                if self._loaded == (ref, revision):
                    settings = self._engine.settings
            self._engine = None  # the old model's memory goes before the new one comes
            self._engine = open_engine(
                ref,
                revision=revision,
                settings=settings,
                prompts_uri=self._prompts_uri,
                texts=self._texts.get(ref, ()),
            )
            self._loaded = (ref, revision)
        return self._engine


def mask_setup(models: MaskModels) -> MaskModels:
    """Set up a CPU actor; its state is the mask models."""
    log.quiet_environment()
    return models


def vace_setup(
    model: str,
    revision: str,
    settings: EngineSettings,
    prompts_uri: str | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> Engines:
    """Set up a GPU actor; the default model is loaded at once, so that the first window does not wait."""
    log.quiet_environment()
    engines = Engines(settings, prompts_uri, texts or {})
    engines.get(model, revision)
    return engines


def prepare(models: MaskModels, calls: Sequence[Call]) -> list[Outcome]:
    """Prepare clips. Payload: ClipWork. Meta: its ClipPlan."""
    return [Outcome(meta=prepare_step.prepare(_payload(call), models)) for call in calls]


def build(models: MaskModels, calls: Sequence[Call]) -> list[Outcome]:
    """Build windows. Payload: (ClipWork, ClipPlan, PlannedWindow). Leaves a VCU."""
    return [Outcome(payload=build_step.build(*_payload(call))) for call in calls]


def generate(engines: Engines, calls: Sequence[Call]) -> Finish:
    """Generate windows and commit them. Payload: (model, revision, OUT), equal for all calls. Input: a window's VCU.

    A window that cannot be made fails alone, without its neighbours. Meta: the device's seconds. The returned function
    waits until the last frames are written.
    """
    model, revision, out = _payload(calls[0])
    vcus: list[Any] = [call.inputs[0] for call in calls]
    written = generate_step.generate(vcus, engines.get(model, revision), out)

    def finish() -> list[Outcome]:
        return [
            Outcome(error=result) if isinstance(result, ClipError) else Outcome(meta=result["device_s"])
            for result in written()
        ]

    return finish


def stitch(models: MaskModels, calls: Sequence[Call]) -> list[Outcome]:
    """Stitch clips and commit them. Payload: (ClipWork, ClipPlan). Meta: the clip's status."""
    statuses = []
    for call in calls:
        work, plan = _payload(call)
        statuses.append(stitch_step.stitch(work, plan, call.attempt)["status"])
        keep_step.keep(work, plan)
    return [Outcome(meta=status) for status in statuses]


def keep(models: MaskModels, calls: Sequence[Call]) -> list[Outcome]:
    """Write the masks of finished clips beside the results. Payload: ClipWork. Meta: done."""
    for call in calls:
        work: ClipWork = _payload(call)
        keep_step.keep(work, prepare_step.prepare(work, models))
    return [Outcome(meta="done") for _ in calls]


def measure(models: MaskModels, calls: Sequence[Call]) -> list[Outcome]:
    """Measure finished clips and commit their metrics. Payload: (ClipWork, ClipPlan). Meta: the record."""
    pairs = [_payload(call) for call in calls]
    return [Outcome(meta=measure_step.measure(work, plan, models)) for work, plan in pairs]


def select_best(models: MaskModels, calls: Sequence[Call]) -> list[Outcome]:
    """Make the best attempt the clip's output. Payload: (ClipWork, records of the attempts, the number of the best)."""
    for call in calls:
        select_best_step.select_best(*_payload(call))
    return [Outcome() for _ in calls]


def _payload(call: Call) -> Any:
    return call.payload
