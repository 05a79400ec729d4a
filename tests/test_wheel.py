"""The built wheel, installed outside the checkout, finds its package data and simulates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def run(arguments: list[str], folder: Path) -> str:
    """Run a command away from the checkout; returns what it printed."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout with the tools that are installed (nothing is downloaded)."""
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)], out)
    (built,) = out.glob("euston-*.whl")
    return built


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment: euston from the wheel, its dependencies lent by the tests' own.

    A path file lends them: it comes after the environment's own packages and does not read
    path files there, so the editable install of the checkout stays out.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    run([*pip, str(wheel)], folder)
    site = Path(
        run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
    )
    lent = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "lent.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")
    return python.parent


def test_wheel_holds_what_the_source_holds(wheel: Path) -> None:
    package = ROOT / "src" / "euston"
    skipped = {".pyc", ".nbi", ".nbc"}
    source = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in skipped and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert packed == source
    assert "euston/py.typed" in packed
    assert licences == {"LICENSE", "NOTICE"}


def test_installed_away_from_the_checkout(binaries: Path, tmp_path: Path) -> None:
    place = run([str(binaries / "python"), "-c", "import euston; print(euston.__file__)"], tmp_path)
    assert Path(place.strip()).is_relative_to(binaries.parent)


def test_catalogue_loads_and_checks(binaries: Path, tmp_path: Path) -> None:
    code = "from euston import catalog; print(catalog.accelerator('h100-sxm').memory_bytes)"
    assert float(run([str(binaries / "python"), "-c", code], tmp_path)) >= 80e9
    run([str(binaries / "euston"), "catalog", "check"], tmp_path)


def test_simulates(binaries: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "llama3-405b-16k.yaml", tmp_path / "scenario.yaml")
    printed = run(
        [str(binaries / "euston"), "simulate", "scenario.yaml", "--json", "--report", "r.html"], tmp_path
    )
    assert json.loads(printed)
    assert (tmp_path / "r.html").stat().st_size > 10_000
