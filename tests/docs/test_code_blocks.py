"""The code blocks of README.md and the tutorials run as a reader would run them.

Rules, so that a writer knows what is run:
- bash blocks: every line that starts with `euston`, `python` or `sed` is run, in order; it may go on after a
  backslash. Other lines (`make`, `source`, `git`, `pip`) are about the reader's machine and are left out; an
  unknown first word fails the test.
- python blocks: all blocks of a page are one session, run after the page's bash lines.
- A yaml block behind the words "Save this as `NAME`" is saved there first.
- Everything runs in one temporary folder per page that holds a copy of `examples/`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/tutorial.md", "docs/choose-a-plan.md"]
RUN = {"euston", "python", "sed"}
LEFT_OUT = {"make", "source", "git", "pip", "cd", "#"}
SAVED = re.compile(r"Save this as `([\w.-]+)`:\n\n```yaml\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """The bodies of the fenced blocks in one language, in order."""
    return [body for found, body in BLOCK.findall(text) if found == language]


def commands(text: str) -> list[str]:
    """The lines of bash blocks that are run."""
    lines = [line.strip() for body in blocks(text, "bash") for line in body.replace("\\\n", " ").splitlines()]
    chosen = []
    for line in filter(None, lines):
        word = line.split()[0]
        assert word in RUN | LEFT_OUT, f"a reader's shell block starts a line with {word!r}: {line}"
        if word in RUN:
            chosen.append(line)
    return chosen


def run(arguments: list[str], folder: Path) -> None:
    """Run one command as a reader with an active virtual environment would; a failure shows its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{arguments[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "out").mkdir()
    for name, body in SAVED.findall(text):
        (tmp_path / name).write_text(body, encoding="utf-8")
    lines, session = commands(text), blocks(text, "python")
    assert lines, f"{page} has no code to run: did the fences change?"
    for line in lines:
        run(["bash", "-c", line], tmp_path)
    if session:
        (tmp_path / "session.py").write_text("\n".join(session), encoding="utf-8")
        run([sys.executable, "session.py"], tmp_path)


def test_which_lines_are_run() -> None:
    text = "```bash\nmake demo\neuston a \\\n  b\n```\n```python\nx = 1\n```\n```text\nno\n```\n"
    assert [line.split() for line in commands(text)] == [["euston", "a", "b"]]
    assert blocks(text, "python") == ["x = 1\n"]


def test_unknown_shell_words_are_refused() -> None:
    with pytest.raises(AssertionError, match="'curl'"):
        commands("```bash\ncurl x\n```\n")
