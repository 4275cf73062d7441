"""Write the report of an output folder: data files while the rows are read, the page itself last."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from vace_batch import __version__
from vace_batch.costs import Prices
from vace_batch.ledger.results import STATUSES, write_results
from vace_batch.ledger.run_plan import read_run
from vace_batch.ledger.schema import RunRecord
from vace_batch.ledger.summary import summarise
from vace_batch.ledger.usage import Usage, quantity, read_usage
from vace_batch.manifest.schema import SCHEMA
from vace_batch.options import Options
from vace_batch.redact import redact
from vace_batch.report import charts
from vace_batch.report.data_files import INDEX, INDEX_ROWS, PAGE_ROWS, Buffer, by_column, clip_view, index_row, script
from vace_batch.report.rows import Clip, has_results, read_clips
from vace_batch.report.tally import OUTCOMES, Tally
from vace_batch.storage import files as storage
from vace_batch.storage.listing import list_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The written report: its page, and the numbers of clips and data files."""

    uri: str
    clips: int
    files: int


def write_report(out: str, to: str | None = None, *, previews: int = 0, refresh: bool = False) -> Written:
    """Write the report of `out` to the folder `to` (OUT/report unless given); `index.html` in it is the page.

    `previews`: number of clips that get small videos and pictures, which any browser can show.
    `refresh`: first write OUT/results again from the ledger, which shows a run that still goes on.

    Raises:
        UsageError: `out` is not an output folder, or its results are older than its last run.
    """
    to = storage.join(out, "report") if to is None else to.rstrip("/")
    run = read_run(out)
    if refresh or not has_results(out):
        write_results(summarise(out))
    preview = _previews(out, to, previews) if previews else lambda clip: None
    tally = Tally()
    data = _DataFiles(to)
    index = Buffer(INDEX_ROWS)
    pages = Buffer(PAGE_ROWS)
    for clip in read_clips(out):
        tally.add(clip)
        data.write_index(index.add(index_row(clip)))
        data.write_clips(pages.add(clip_view(clip, _links(clip, out, to), preview(clip))))
    data.write_index(index.rest())
    data.write_clips(pages.rest())
    tally.check()
    _write_page(out, to, run, tally)
    _remove_older(to, data.names)
    return Written(uri=storage.join(to, "index.html"), clips=tally.planned, files=len(data.names))


class _DataFiles:
    """Writes data files into the report's folder `to`, from the numbers and rows that a `Buffer` gives.

    `names` are the files written so far, relative to the folder.
    """

    def __init__(self, to: str) -> None:
        self._to = to
        self.names: set[str] = set()

    def write_index(self, filled: Iterable[tuple[int, list[Any]]]) -> None:
        """Write rows of the index, by column."""
        for number, rows in filled:
            self._publish("index", number, by_column(rows))

    def write_clips(self, filled: Iterable[tuple[int, list[Any]]]) -> None:
        """Write the views of clips."""
        for number, views in filled:
            self._publish("clips", number, views)

    def _publish(self, kind: str, number: int, value: object) -> None:
        name = f"data/{kind}-{number:04d}.js"
        self.names.add(name)
        storage.publish(storage.join(self._to, name), script(kind, number, value))


def _previews(out: str, to: str, most: int) -> Callable[[Clip], Mapping[str, Any] | None]:
    from vace_batch.report.previews import Previews, most_doubtful  # loads OpenCV and PyAV

    return Previews(out, to, most_doubtful(out, most))


def _write_page(out: str, to: str, run: RunRecord, tally: Tally) -> None:
    meta = {
        "report": storage.digest(out, str(run["plan"])),
        "name": _name(out),
        "out": redact(out),
        "clips": tally.planned,
        "index_rows": INDEX_ROWS,
        "page_rows": PAGE_ROWS,
        "searched": list(INDEX),
        "columns": list(SCHEMA.names),
    }
    storage.publish(storage.join(to, "data", "meta.js"), script("meta", 0, meta))
    page = files("vace_batch.report") / "page"
    for name in ("report.css", "report.js"):
        storage.publish(storage.join(to, name), (page / name).read_bytes())
    usage = read_usage(out)
    cost = _cost(usage, run, tally.retry_gpu_s)
    environment = Environment(
        loader=PackageLoader("vace_batch.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["amount"] = charts.amount
    environment.filters["quantity"] = quantity
    environment.filters["money"] = Prices(currency=cost["currency"] if cost else "").say
    environment.filters["clock"] = charts.clock
    text = environment.get_template("index.html.j2").render(
        name=_name(out),
        out=redact(out),
        manifest=redact(str(run.get("manifest", ""))),
        started=str(run.get("started_at", ""))[:16].replace("T", " "),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        tally=tally,
        cost=cost,
        stopped=redact(usage.stopped) if usage.stopped and tally.status["pending"] else None,
        **_charts(tally),
    )
    storage.publish(storage.join(to, "index.html"), text.encode("utf-8", "backslashreplace"))


def _cost(usage: Usage, run: RunRecord, further_gpu_s: float) -> dict[str, Any] | None:
    """Make the page's table of predicted and real cost; None without a record of usage."""
    prices = Options.model_validate(run.get("options", {})).prices
    cost = usage.as_dict(prices) | {"further_gpu_s": further_gpu_s}
    return cost if cost["steps"] else None


def _charts(tally: Tally) -> dict[str, Any]:
    step_s, steps = tally.over_time()
    return {
        "status": charts.stacked({name: tally.status[name] for name in STATUSES}),
        "verdicts": charts.stacked({name: tally.verdict[name] for name in OUTCOMES}),
        "profiles": charts.ranked(tally.profile_gpu_s),
        "faults": charts.ranked(dict(tally.faults)),
        "throughput": charts.timeline([(start, clips) for start, clips, _ in steps], step_s, "clips"),
        "gpu": charts.timeline([(start, gpu_s) for start, _, gpu_s in steps], step_s, "GPU-seconds"),
        "clips_an_hour": _rate(tally),
    }


def _rate(tally: Tally) -> float | None:
    """Compute clips an hour, from the first clip that ended to the last."""
    if tally.first_s is None or tally.last_s is None or tally.last_s - tally.first_s < 1:
        return None
    return sum(clips for clips, _ in tally.minutes.values()) * 3600 / (tally.last_s - tally.first_s)


def _name(out: str) -> str:
    return redact("/".join(storage.resolve(out)[1].rstrip("/").rsplit("/", 2)[-2:]))


def _links(clip: Clip, out: str, to: str) -> dict[str, str | None]:
    masks = clip.result.get("masks")
    return {
        "source": link(str(clip.job.get("video_uri") or ""), to),
        "result": link(str(clip.result.get("output_uri") or ""), to),
        "masks": link(storage.join(out, masks), to) if masks else None,
    }


def link(uri: str, to: str) -> str | None:
    """Make the link from a page in the folder `to` to `uri`: a relative address on the same disk or in the same bucket.

    None where a browser could not follow. Links are relative or http addresses, quoted, so no link is a script.
    """
    if not uri or redact(uri) != uri:
        return None
    if uri.startswith(("http://", "https://")):
        return quote(uri, safe="/:?&=%#~+,;@!*'()[]")
    place, path = _place(uri)
    home, folder = _place(to)
    if place != home:
        return None
    return quote(posixpath.relpath(path, folder), safe="/")


def _place(uri: str) -> tuple[str, str]:
    """Split a URI into its disk or bucket, which linked files must share, and its path."""
    if storage.is_local(uri):
        return "", storage.resolve(uri)[1]
    scheme, _, rest = uri.partition("://")
    bucket, _, path = rest.partition("/")
    return f"{scheme}://{bucket}", "/" + path


def _remove_older(to: str, names: set[str]) -> None:
    """Remove data files of an earlier, longer report."""
    folder = storage.join(to, "data")
    for name in list_files(folder):
        if name.endswith(".js") and name.startswith(("index-", "clips-")) and f"data/{name}" not in names:
            storage.delete(storage.join(folder, name))
