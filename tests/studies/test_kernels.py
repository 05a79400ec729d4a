"""`reproduce kernels` on part of the tables: no peeking, the bars it is held to, layouts and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from euston import studies
from euston.devices import _gemm
from euston.errors import ConfigError

HEADER = "device,gemm_dtype,m,n,k,latency_ms,source"


def write_gemm(path: Path, device: str, scale: float = 1.0, name: str = "H100-SXM") -> Path:
    """A device's packaged GEMM table in the published layout."""
    table = _gemm.measured(device, "bf16")
    assert table is not None
    rows = zip(*(table.columns[c] for c in "mnk"), table.seconds, strict=True)
    lines = [f"{name},bfloat16,{m:.0f},{n:.0f},{k:.0f},{s * 1e3 * scale:.8g},mine" for m, n, k, s in rows]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def test_gemm_shapes_left_out(tmp_path: Path) -> None:
    """The bar: median 4 %, 90th percentile 12 %; only whole (n, k) are left out."""
    found = studies.run("kernels", write_gemm(tmp_path / "mine.csv", "h100-sxm"))
    rows = found["rows"]
    shapes = {(row["extra"]["n"], row["extra"]["k"]) for row in rows}
    assert len(shapes) == 12
    assert len(rows) == 12 * 21
    assert found["summary"]["coverage"] == 1.0
    assert found["summary"]["median"] <= 0.04
    assert found["summary"]["p90"] <= 0.12
    assert found["summary"]["by"]["quantity"].keys() == {"gemm, s"}


def test_left_out_rows_cannot_be_seen(tmp_path: Path) -> None:
    """Oracle: spoil the left-out rows; every prediction must stay as it was."""
    path = write_gemm(tmp_path / "mine.csv", "a100-sxm-80gb", name="A100-SXM-80GB")
    first = studies.run("kernels", path)
    held = {int(row["id"].split(":")[1]) for row in first["rows"]}
    lines = path.read_text().splitlines()
    for number in held:
        cells = lines[number - 1].split(",")
        cells[5] = str(7 * float(cells[5]))
        lines[number - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")
    second = studies.run("kernels", path)
    assert [row["ours"] for row in second["rows"]] == [row["ours"] for row in first["rows"]]
    assert second["rows"][0]["published"] == pytest.approx(7 * first["rows"][0]["published"])


def test_a_slower_cluster_is_fitted_as_it_is(tmp_path: Path) -> None:
    """A user's table, 1.5 times slower, is predicted from itself, not from the shipped one."""
    found = studies.run("kernels", write_gemm(tmp_path / "mine.csv", "h100-sxm", 1.5))
    assert found["summary"]["median"] <= 0.045
    assert abs(found["summary"]["bias"]) <= 0.03


def test_collectives_by_size(tmp_path: Path) -> None:
    """Oracle: latency + bytes / rate is predicted where sizes are missing."""
    sizes = [2**i for i in range(8, 28)]
    lines = [
        f"H100-SXM,all_reduce,NCCL,half,{n},{size},{10 + 2 * n + 2 * size * 1.5 / 300e3:.8g}"
        for n in (2, 4, 8)
        for size in sizes
    ]
    path = tmp_path / "mine.csv"
    header = "device,collective,impl,dtype,num_gpus,message_elems,latency_us"
    path.write_text("\n".join([header, *lines]) + "\n")
    found = studies.run("kernels", path)
    assert found["summary"]["n"] == 3 * 5
    assert found["summary"]["median"] <= 0.05
    assert found["summary"]["p90"] <= 0.15


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"no known layout .*gemm: device,gemm_dtype"):
        studies.run("kernels", path)
    path.write_text(f"{HEADER}\nH100-SXM,bfloat16,1,2,x,3,me\n")
    with pytest.raises(ConfigError, match="line 2, column `k`"):
        studies.run("kernels", path)
    path.write_text(f"{HEADER}\nH9000,bfloat16,1,2,3,3,me\n")
    with pytest.raises(ConfigError, match="H9000"):
        studies.run("kernels", path)


@pytest.mark.slow
def test_all_tables_meet_their_bars() -> None:
    bars = {
        "gemm, s": (0.04, 0.12), "attention, s": (0.06, 0.20), "collective, s": (0.08, 0.25),
        "moe, s": (0.10, 0.30),
    }  # fmt: skip
    by = studies.run("kernels")["summary"]["by"]["quantity"]
    for quantity, (median, p90) in bars.items():
        assert by[quantity]["median"] <= median, quantity
        assert by[quantity]["p90"] <= p90, quantity
        assert np.isfinite(by[quantity]["bias"])
