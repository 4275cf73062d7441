"""Build the site: `python .ci/docs.py SITE`.

Pages are docs/**.md, other pages of the repository, and the reference. The reference is generated at each build from
the command line's options, the settings' descriptions and the manifest's schema, so it is never out of date. A link to
a page becomes a link of the site; a link to another file of the repository becomes plain text. A broken link, a page
outside the navigation and a missing page of the navigation stop the build.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from vace_batch.cli import app
from vace_batch.manifest.docs import column_dictionary
from vace_batch.options import Options

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "infra/README.md": "infra.md",
    "manifests/README.md": "reference/manifest.md",
}
"""Pages of the site that lie elsewhere in the repository; links to README.md lead to docs/index.md."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```\n?)", re.MULTILINE | re.DOTALL)
_TIGHT_LIST = re.compile(r"^((?![ \t>|#]|[-*] |\d+\. ).*\S.*)\n(?=[-*] |\d+\. )", re.MULTILINE)


def pages() -> dict[str, str]:
    """Text of every page, by its path in the site."""
    generated = {"docs/reference/command-line.md": command_line, "docs/reference/settings.md": settings}
    generated["manifests/README.md"] = column_dictionary
    places = {f"docs/{name}": name for name in (*_below_docs("*.md"), *_below_docs("*.png"))} | ELSEWHERE
    places |= {source: source.removeprefix("docs/") for source in generated if source not in places}
    return {
        place: _for_the_site(generated[source]() if source in generated else _read(source), source, places)
        for source, place in places.items()
        if place.endswith(".md") and source != "README.md"
    }


def _below_docs(pattern: str) -> list[str]:
    return [str(path.relative_to(DOCS)) for path in sorted(DOCS.rglob(pattern))]


def _read(source: str) -> str:
    name = source.removeprefix("docs/")
    return (ROOT / source if name == source else DOCS / name).read_text(encoding="utf-8")


def _for_the_site(text: str, source: str, places: dict[str, str]) -> str:
    """Rewrite links for the site, and put an empty line before each list, as the site's Markdown needs it."""

    def link(match: re.Match[str]) -> str:
        mark, words, target, anchor = match.groups()
        wanted = os.path.normpath(os.path.join(os.path.dirname(source), target))
        for name in (wanted, f"{wanted}/README.md"):
            if name in places:
                here = os.path.relpath(places[name], os.path.dirname(places[source]) or ".")
                part = "" if name == "README.md" else anchor or ""  # index.md has other headings
                return f"{mark}[{words}]({here}{part})"
        if not (ROOT / wanted).exists():
            raise SystemExit(f"{source}: a link leads nowhere: {target}")
        return words

    parts = _FENCE.split(text)
    return "".join(
        part if part.startswith("```") else _TIGHT_LIST.sub(r"\1\n\n", _LINK.sub(link, part)) for part in parts
    )


# --- the reference ---------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Write the page of all commands with their arguments and options, from Typer."""
    lines = ["# Command line", "", *_paragraphs(app.__doc__), ""]
    lines += ["Made from the program's own options; `vace-batch COMMAND --help` says the same.", ""]
    for name, command in _commands().items():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(part for param in command.params for part in _usage(param))
        lines += [f"## `{name}`", "", *_paragraphs(command.help), "", f"    vace-batch {name} {usage}", ""]
        lines += ["| | | default |", "|---|---|---|"]
        for param in command.params:
            declared, described = param.get_help_record(context)
            text, _, rest = described.partition("  [")
            default, extra = _default(rest.rstrip("]"))
            lines.append(f"| {_code(declared)} | {_cell(text + extra)} | {default} |")
        lines.append("")
    return "\n".join(lines)


def _usage(param: Any) -> Iterator[str]:
    if param.param_type_name == "argument":
        yield param.metavar or param.name.upper()
    elif param.required:
        yield f"{param.opts[0]} {param.metavar or param.name.upper()}"


def _default(rest: str) -> tuple[str, str]:
    """Split Typer's bracket behind a help text into the default and the rest (range, variable)."""
    default, others = "", []
    for part in filter(None, rest.split("; ")):
        if part == "required":
            default = "required"
        elif part.startswith("default: "):
            default = f"`{part.removeprefix('default: ')}`"
        else:
            others.append(part.replace("env var: ", "variable "))
    return default, f" ({', '.join(others)})" if others else ""


def settings() -> str:
    """Write the page of all settings of a run, from pydantic's JSON schema."""
    lines = ["# Settings", "", "Options of a run: `vace_batch.Options` in Python, kept in `OUT/run.json`.", ""]
    schema = Options.model_json_schema()
    options = {param.name for command in _commands().values() for param in command.params}
    for name, model in {"Options": schema, **schema["$defs"]}.items():
        lines += [f"## {name}", "", *_paragraphs(model.get("description")), ""]
        lines += ["| setting | meaning | values | default |", "|---|---|---|---|"]
        for key, field in model["properties"].items():
            option = f"<br>`--{key.replace('_', '-')}`" if model is schema and key in options else ""
            meaning = _cell(field.get("description", ""))
            lines.append(f"| `{key}`{option} | {meaning} | {_cell(_values(field))} | {_preset(field)} |")
        lines.append("")
    return "\n".join(lines)


def _values(field: dict[str, Any]) -> str:
    """Values that a field of a JSON schema allows."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_values(one) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_values(field['items'])}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[name]:,}" for name, sign in signs.items() if name in field]
    return " ".join([field.get("type", "any").replace("null", "none"), ", ".join(limits)]).strip()


def _preset(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "" if "$ref" in field else "required"
    if isinstance(field["default"], dict):
        return ", ".join(f"{name} {value}" for name, value in field["default"].items() if value is not None)
    return "none" if field["default"] in (None, []) else f"`{json.dumps(field['default'])}`"


def _commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app.app)
    return dict(sorted(group.commands.items()))


def _paragraphs(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").strip().splitlines()]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


# --- the site --------------------------------------------------------------------------------------------------------


def build(site: Path) -> None:
    """Write the site into the folder `site`, replacing an earlier site.

    Raises:
        SystemExit: a link or the navigation is wrong; the message names page and link.
    """
    texts = pages()
    project = tomllib.loads((DOCS / "zensical.toml").read_text())["project"]
    known = set(_navigated(project["nav"]))
    unmatched = {name for name in texts.keys() ^ known if not name.startswith("decisions/0")}
    if unmatched:
        raise SystemExit(f"docs/zensical.toml: the navigation and the pages differ: {', '.join(sorted(unmatched))}")
    with tempfile.TemporaryDirectory(prefix="vace-batch-docs-") as folder:
        place = Path(folder)
        for name, text in texts.items():
            (place / "pages" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "pages" / name).write_text(text, encoding="utf-8")
        shutil.copy(DOCS / "zensical.toml", place)
        (place / "theme").mkdir()
        shutil.copy(DOCS / "theme" / "main.html", place / "theme")
        (place / "pages" / "assets").mkdir()
        for name in _below_docs("*.png"):
            shutil.copy(DOCS / name, place / "pages" / name)
        for file in (DOCS / "theme").glob("[!m]*"):
            shutil.copy(file, place / "pages" / "assets")
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict"],
            cwd=place,
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        if done.returncode:
            raise SystemExit((done.stdout + done.stderr).partition("Traceback")[0])
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(place / "site", site)


def _navigated(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else _navigated(value)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
    print(Path(sys.argv[1]) / "index.html")
