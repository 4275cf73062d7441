"""Check that the runner of the pages' commands finds wrong pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.console import commands_of, ours, run

PAGE = """
```console
$ cat > a.csv <<'END'
> one
> two
> END
$ cat a.csv
one
...
$ false || echo "exit code $?"
exit code 1
```

```console title="Needs a cluster"
$ vace-batch status OUT
```
"""


def test_a_page_is_followed_in_order_and_what_needs_something_is_not(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    found = commands_of(tmp_path / "page.md")
    assert [command.runs for command in found] == [True, True, True, False]
    assert [run(command, tmp_path) for command in found if command.runs] == ["", "one\ntwo\n", "exit code 1\n"]


@pytest.mark.parametrize("body", ["$ false", "$ echo one\ntwo", "$ printf 'b\\na\\n'\na\nb", "$ echo one two\none"])
def test_what_a_page_shows_wrongly_fails(body: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"```console\n{body}\n```\n")
    (command,) = commands_of(tmp_path / "page.md")
    with pytest.raises(AssertionError, match="^\\$ "):
        run(command, tmp_path)


def test_our_commands_are_found_in_lines_of_shell() -> None:
    text = 'cd x\nvace-batch status OUT || echo "exit code $?"\nvace-batch gc \\\nOUT     # what no record names'
    assert ours(text) == ["vace-batch status OUT", "vace-batch gc OUT"]
