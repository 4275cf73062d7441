"""Measure the time from a cold start to the first recorded window, as a timeline of a run.

    python benchmarks/cold_start.py

Weights are in an S3 server of its own. The first run finds an empty cache, the second what the first has fetched: the
ratio of the times until a VACE actor is ready is what fetching costs here. Masks are made while the model is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIPS = 3


def timeline(bucket: str, out: str) -> dict[str, float]:
    """Seconds from the start of this process's work to the first event of each kind."""
    started = time.monotonic()
    from vace_batch.batch.batch import open_batch
    from vace_batch.batch.graph import ClipGraph
    from vace_batch.batch.pools import open_runtime
    from vace_batch.cluster.events import ActorReady, Event, UnitDone, UnitStarted
    from vace_batch.manifest.reader import read_manifest
    from vace_batch.options import Options

    seen = {"imports": time.monotonic() - started}

    def first(what: str) -> None:
        seen.setdefault(what, time.monotonic() - started)

    def note(event: Event) -> None:
        if isinstance(event, ActorReady):
            first(f"an actor of pool {event.pool} is ready")
        elif isinstance(event, UnitStarted | UnitDone):
            first(f"{event.unit.kind} {'begins' if isinstance(event, UnitStarted) else 'ends'}")

    options = Options(model=f"{bucket}/weights", cpu_actors=1, gpu_actors=1)
    batch = open_batch(read_manifest(f"{bucket}/in/manifest.parquet"), out, options)
    first("planned")
    with open_runtime(options, batch) as runtime:
        first("Ray is there")
        graph = ClipGraph(batch.pending, batch.unkept)
        runtime.run(graph, graph.first_units(), on_event=note)
    return seen


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.support import s3_server
    from tests.support.multi_node import WEIGHTS, make_clips, upload

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = make_clips(folder, CLIPS)
        with s3_server.moto(folder) as endpoint, s3_server.bucket(endpoint) as bucket:
            upload(sources, bucket)
            found = {}
            for run in ("empty cache", "full cache"):
                environment = os.environ | {"VACE_BATCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
                command = [sys.executable, __file__, bucket, str(folder / run)]
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found[run] = json.loads(done.stdout.splitlines()[-1])
            fetched = s3_server.moto_gets(folder, WEIGHTS)
    print(f"{'seconds until':34} " + " ".join(f"{run:>12}" for run in found))
    for event in sorted(found["empty cache"], key=found["empty cache"].__getitem__):
        print(f"{event:34} " + " ".join(f"{times[event]:12.1f}" for times in found.values()))
    ready = [times["an actor of pool gpu is ready"] for times in found.values()]
    print(f"the transformer's weights were fetched {len(fetched)} time, {sum(fetched) / 1e6:.1f} MB")
    print(f"ratio of the times until a VACE actor is ready, empty to full cache: {ready[0] / ready[1]:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(timeline(*sys.argv[1:])))
    else:
        main()
