"""Where text comes from: this Python's own library, files, JSONL, Debian packages, Hugging Face data sets.

Each source yields documents (name, text) and says its version and licence. No text is packaged with euston.
"""

from __future__ import annotations

import ast
import gzip
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from euston.errors import ConfigError, MissingExtra

__all__ = ["BUILTIN", "Document", "Source", "open_source"]

BUILTIN = ("python:code", "python:docstrings", "python:topics")
"""Sources that every machine with Python has: library source, its docstrings, the language reference's
help topics.
"""

_MAX_DOCUMENT = 8 * 2**20
_TEXT = (".txt", ".rst", ".md", ".py", ".tex", ".c", ".h", ".texi")


@dataclass(frozen=True)
class Document:
    """A text and a name that stays the same on every machine (it decides training or validation)."""

    name: str
    text: str


@dataclass(frozen=True)
class Source:
    """A stream of documents with a licence."""

    name: str
    version: str
    licence: str
    documents: Callable[[], Iterator[Document]]


def open_source(word: str) -> Source:
    """A source by the word that names it.

    ``python:code|docstrings|topics``, ``text:PATH`` (a file or a folder), ``jsonl:PATH[:FIELD]``,
    ``deb:FILE.deb``, ``debian:PACKAGE`` (installed, or fetched by apt-get), ``hf:NAME[:SPLIT[:FIELD]]``.

    Raises
    ------
    ConfigError
        An unknown kind, or a file that is not there.
    MissingExtra
        hf without the `datasets` library.
    """
    kind, colon, rest = word.partition(":")
    known = {"python": _python, "text": _text, "jsonl": _jsonl, "deb": _deb, "debian": _debian, "hf": _hf}
    if not colon or kind not in known or not rest:
        raise ConfigError(
            f"`source`: {word!r}; known: python:{{code,docstrings,topics}}, text:PATH, "
            "jsonl:PATH[:FIELD], deb:FILE, debian:PACKAGE, hf:NAME[:SPLIT[:FIELD]]"
        )
    return known[kind](rest)


def _python(what: str) -> Source:
    version = ".".join(str(part) for part in sys.version_info[:3])
    readers = {"code": _library_code, "docstrings": _docstrings, "topics": _topics}
    if what not in readers:
        raise ConfigError(f"`source`: python:{what}; known: {', '.join(readers)}")
    return Source(f"python-{what}", version, "PSF-2.0", readers[what])


def _library_files() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    skip = {
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "lib2to3",
        "pydoc_data",
    }
    for folder, below, files in os.walk(root):
        # Folders named after the build (config-3.11-...) hold tables that differ between machines.
        below[:] = sorted(name for name in below if name not in skip and not name.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder) / name
                text = path.read_text(encoding="utf-8", errors="replace")
                if len(text) <= _MAX_DOCUMENT:
                    yield path.relative_to(root).as_posix(), text


def _library_code() -> Iterator[Document]:
    for name, text in _library_files():
        if not name.startswith("encodings/"):  # tables of characters
            yield Document(name, text)


def _docstrings() -> Iterator[Document]:
    for name, text in _library_files():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        joined = "\n\n".join(text for text in found if text and len(text) > 40)
        if joined:
            yield Document(f"docstrings/{name}", joined)


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(f"topics/{name}", topics[name])


def _read(path: Path) -> str:
    """Text of a file, unpacked and stripped of HTML or troff where it is that."""
    packed = path.suffix in (".gz", ".dz")
    with gzip.open(path, "rb") if packed else path.open("rb") as file:
        text = file.read(_MAX_DOCUMENT).decode("utf-8", "replace")
    inner = path.with_suffix("") if packed else path
    if inner.suffix in (".html", ".htm", ".xhtml"):
        return _strip_html(text)
    if re.fullmatch(r"\.[1-9]\w*", inner.suffix):
        return _strip_troff(text)
    return text


class _Html(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.quiet = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style", "head"):
            self.quiet += 1
        elif tag in ("p", "br", "div", "li", "h1", "h2", "h3", "h4", "tr", "pre"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "head"):
            self.quiet = max(0, self.quiet - 1)

    def handle_data(self, data: str) -> None:
        if not self.quiet:
            self.parts.append(data)


def _strip_html(text: str) -> str:
    parser = _Html()
    parser.feed(text)
    parser.close()
    return re.sub(r"\n\s*\n+", "\n\n", "".join(parser.parts)).strip()


def _strip_troff(text: str) -> str:
    """Plain words of a manual page: requests dropped but for their headings, fonts and escapes removed."""
    lines = []
    for line in text.splitlines():
        if line.startswith((".SH", ".SS")):
            lines.append("\n" + line[3:].strip(' "'))
        elif line.startswith((".B", ".I")):
            lines.append(line.partition(" ")[2].replace('"', ""))
        elif line.startswith((".PP", ".P", ".TP", ".IP")):
            lines.append("")
        elif not line.startswith((".", "'")):
            lines.append(line)
    plain = "\n".join(lines)
    plain = re.sub(r"\\f(\[[^\]]*\]|\(..|.)|\\s[+-]?\d|\\[&/,|^)%:]", "", plain)
    return re.sub(
        r"\\\((..)|\\(.)", lambda m: {"em": "-", "en": "-", "aq": "'"}.get(m[1] or "", m[2] or ""), plain
    )


def _walk(root: Path, wanted: Callable[[Path], bool]) -> Iterator[Document]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and wanted(path):
            text = _read(path)
            if text.strip():
                yield Document(path.relative_to(root).as_posix(), text)


def _is_text(path: Path) -> bool:
    inner = path.with_suffix("") if path.suffix in (".gz", ".dz") else path
    return inner.suffix in ("", *_TEXT, ".html", ".htm", ".dict") or (
        "/man/" in path.as_posix() and bool(re.fullmatch(r"\.[1-9]\w*", inner.suffix))
    )


def _there(where: str) -> Path:
    path = Path(where)
    if not path.exists():
        raise ConfigError(f"`source`: {where}: no such file or folder")
    return path


def _text(where: str) -> Source:
    path = _there(where)

    def documents() -> Iterator[Document]:
        if path.is_dir():
            yield from _walk(path, _is_text)
        else:
            yield Document(path.name, _read(path))

    return Source(path.stem, "", "unknown: the user's own text", documents)


def _jsonl(where: str) -> Source:
    name, _, field = where.partition(":")
    path, field = _there(name), field or "text"

    def documents() -> Iterator[Document]:
        packed = path.suffix == ".gz"
        with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    text = json.loads(line)[field]
                except (ValueError, KeyError, TypeError):
                    raise ConfigError(
                        f"`{path.name}:{number}`: is no JSON object with a key {field!r}"
                    ) from None
                yield Document(f"{path.name}:{number}", str(text))

    return Source(path.name.partition(".")[0], "", "unknown: the user's own text", documents)


def _deb(where: str, package: str = "") -> Source:
    path = _there(where)
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise ConfigError(
            "`source`: deb needs dpkg-deb, which this machine lacks; unpack the package, use text:PATH"
        )
    fields = _run([tool, "--field", str(path), "Package", "Version"])
    found = dict(line.split(": ", 1) for line in fields.splitlines() if ": " in line)
    name = package or found.get("Package", path.stem)
    with tempfile.TemporaryDirectory() as folder:
        _run([tool, "-x", str(path), folder])
        copyright_ = next(Path(folder).glob("usr/share/doc/*/copyright"), None)
        licence = _licence(copyright_)

    def documents() -> Iterator[Document]:
        with tempfile.TemporaryDirectory() as folder:
            _run([tool, "-x", str(path), folder])
            yield from _walk(Path(folder), _is_text)

    return Source(name, found.get("Version", ""), licence, documents)


def _debian(package: str) -> Source:
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package):
        raise ConfigError(f"`source`: {package!r} is no name of a Debian package")
    dpkg, apt = shutil.which("dpkg-query"), shutil.which("apt-get")
    if dpkg is None or apt is None:
        raise ConfigError(
            "`source`: debian needs a Debian system; fetch the package elsewhere and use deb:FILE"
        )
    here = subprocess.run(
        [dpkg, "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False
    )
    if here.returncode == 0 and here.stdout:
        files = [Path(line) for line in _run([dpkg, "-L", package]).splitlines()]

        def documents() -> Iterator[Document]:
            for path in sorted(files):
                if path.is_file() and _is_text(path):
                    yield Document(path.as_posix().lstrip("/"), _read(path))

        licence = _licence(Path("/usr/share/doc") / package / "copyright")
        return Source(package, here.stdout.strip(), licence, documents)
    kept = Path(tempfile.mkdtemp(prefix="euston-deb-"))  # the source reads it later
    _run([apt, "download", package], cwd=kept)
    return _deb(str(next(kept.glob("*.deb"))), package)


def _licence(path: Path | None) -> str:
    """The short names that a Debian copyright file gives, or a pointer to it."""
    if path is None or not path.exists():
        return "unknown: no copyright file"
    text = path.read_text(encoding="utf-8", errors="replace")
    names = sorted(set(re.findall(r"^License:\s*(\S.*)$", text, flags=re.MULTILINE)))
    return "; ".join(names) if names else "see usr/share/doc copyright file of the package"


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"`source`: {Path(command[0]).name} failed: {reason}")
    return done.stdout


def _hf(where: str) -> Source:
    try:
        import datasets  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError:
        raise MissingExtra("datasets", "train") from None
    name, _, rest = where.partition(":")
    split, _, field = rest.partition(":")

    def documents() -> Iterator[Document]:
        for number, row in enumerate(datasets.load_dataset(name, split=split or "train", streaming=True)):
            yield Document(f"{name}:{number}", str(row[field or "text"]))

    return Source(name.replace("/", "-"), split or "train", "see the data set's card", documents)
