"""`euston doctor`: what is installed, whether compiled kernels can be kept, what the machine offers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer

from euston import __version__
from euston.cli._out import Json, Quiet, Seed, console, put_json, table

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)")
_EXTRA = re.compile(r"extra\s*==\s*[\"']([^\"']+)[\"']")
_HIDDEN_EXTRAS = {"all", "dev", "docs"}


def doctor(json_: Json = False, quiet: Quiet = False, seed: Seed = None) -> None:
    """Say what is installed and what the machine offers; exit code 1 when something needed is missing."""
    base, extras = packages()
    cache = numba_cache()
    facts = {
        "version": 1,
        "euston": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "base": base,
        "extras": extras,
        "numba_cache": cache,
        "machine": machine(),
    }
    missing = [name for name, version in base.items() if version is None]
    if json_:
        put_json(facts)
    elif not quiet:
        _print(facts)
    if missing:
        raise typer.Exit(1)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages() -> tuple[dict[str, str | None], dict[str, dict[str, str | None]]]:
    """Versions of what euston's own metadata ask for (None: not installed): the base, and each extra."""
    base: dict[str, str | None] = {}
    extras: dict[str, dict[str, str | None]] = {}
    try:
        requirements = importlib.metadata.requires("euston") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None or match[1] == "euston":
            continue
        extra = _EXTRA.search(requirement)
        if extra is None:
            base[match[1]] = _installed(match[1])
        elif extra[1] not in _HIDDEN_EXTRAS:
            extras.setdefault(extra[1], {})[match[1]] = _installed(match[1])
    return base, extras


def numba_cache() -> dict[str, Any]:
    """Where compiled kernels are kept: NUMBA_CACHE_DIR, beside the code, or the user's cache."""
    named = os.environ.get("NUMBA_CACHE_DIR")
    package = Path(__file__).resolve().parent.parent
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    for path in [Path(named)] if named else [package / "clock" / "__pycache__", user]:
        if _writable(path):
            return {"path": str(path), "writable": True}
    return {"path": named or str(user), "writable": False}


def _writable(path: Path) -> bool:
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def machine() -> dict[str, Any]:
    """Cores, memory, and what emulation on the real Linux network stack would need."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        memory = None
    return {
        "cores": cores,
        "memory": memory,
        "network_namespaces": Path("/proc/self/ns/net").exists(),
        "root": hasattr(os, "geteuid") and os.geteuid() == 0,
        "ip": shutil.which("ip"),
        "tc": shutil.which("tc"),
        "chromium": shutil.which("chromium") or shutil.which("google-chrome"),
    }


def _print(facts: dict[str, Any]) -> None:
    from euston.units import format_bytes

    host = facts["machine"]
    cache = facts["numba_cache"]
    memory = "unknown memory" if host["memory"] is None else format_bytes(host["memory"], 3)
    kept = (
        "compiled kernels are kept"
        if cache["writable"]
        else "NOT writable: kernels compile in every process; set NUMBA_CACHE_DIR"
    )
    missing_tools = [tool for tool in ("ip", "tc") if not host[tool]]
    able = host["network_namespaces"] and host["root"] and not missing_tools
    needs = [
        *(["Linux network namespaces"] if not host["network_namespaces"] else []),
        *(["root"] if not host["root"] else []),
        *missing_tools,
    ]
    table(
        ["", ""],
        [
            ["euston", facts["euston"]],
            ["Python", f"{facts['python']} at {sys.executable}"],
            ["system", facts["platform"]],
            ["machine", f"{host['cores']} cores, {memory}"],
            ["kernel cache", f"{cache['path']}: {kept}"],
            ["emulation", "network namespaces and tc are there" if able else f"lacks {', '.join(needs)}"],
        ],
    )
    console().print()
    lines = [["base", name, version or "MISSING"] for name, version in facts["base"].items()]
    for extra, parts in facts["extras"].items():
        for name, version in parts.items():
            lines.append([extra, name, version or f"not installed; pip install 'euston[{extra}]'"])
    if not lines:
        lines = [["", "euston", "runs from a folder, not installed; pip install -e . tells more"]]
    table(["extra", "package", "version"], lines)
