"""A batch through its real graph and steps without Ray, one unit at a time; an engine of noise paints the windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.noise_engine import Noise
from vace_batch.batch import workers
from vace_batch.batch.batch import Batch, close_batch, open_batch
from vace_batch.batch.graph import ClipGraph
from vace_batch.batch.identity import another_attempt
from vace_batch.cluster.units import Call, Unit
from vace_batch.ledger.summary import Summary
from vace_batch.manifest.reader import Manifest
from vace_batch.masks.models import MaskModels
from vace_batch.options import Options
from vace_batch.steps.build import build
from vace_batch.steps.clip import ClipWork
from vace_batch.steps.clip_plan import ClipPlan
from vace_batch.steps.generate import generate
from vace_batch.steps.prepare import prepare


class Run:
    """One run of a manifest; `kinds` are the kinds of its units, in their order."""

    def __init__(self, manifest: Manifest, out: str, options: Options, *, verify: bool = False) -> None:
        self.batch: Batch = open_batch(manifest, out, options, verify=verify)
        self.kinds: list[str] = []
        self._graph = ClipGraph(self.batch.pending, self.batch.unkept, another_attempt)
        self._left: dict[str, Any] = {}

    def run(self, before: Callable[[Unit], None] = lambda unit: None) -> Summary:
        """Run all units and close the batch; `before` is called with each unit."""
        units = list(self._graph.first_units())
        while units:
            unit = units.pop(0)
            before(unit)
            self.kinds.append(unit.kind)
            units += self._graph.on_done(unit, self._ran(unit))
        return close_batch(self.batch)

    def plan_of(self, work: ClipWork) -> ClipPlan:
        """Prepare one clip and generate its windows."""
        plan = prepare(work, MaskModels())
        generate([build(work, plan, planned) for planned in plan.windows], Noise(), work.out)()  # type: ignore[arg-type]
        return plan

    def _ran(self, unit: Unit) -> object:
        if unit.kind == "generate":
            vcu = self._left.pop(unit.inputs[0])
            [record] = generate([vcu], Noise(), self.batch.out)()  # type: ignore[arg-type]
            assert isinstance(record, dict)
            return record["device_s"]
        [outcome] = getattr(workers, unit.kind)(MaskModels(), [Call(unit_id=unit.unit_id, payload=unit.payload)])
        self._left[unit.unit_id] = outcome.payload
        return outcome.meta
