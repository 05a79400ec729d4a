"""Lines nobody has seen: other words, other machines, shapes that no catalogue knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from euston.studies._lines import LAYOUTS, Described, describe
from euston.studies.table import read

HEADER = (
    "model,layers,hidden,heads,kv_heads,ffn,vocab,seq,experts,topk,accelerator,num_accel,precision,tp,pp,vp,ep,"
    "fsdp,mbs,gbs,recompute,framework,iteration_time_s"
)


def line(tmp_path: Path, **cells: object) -> Described:
    values = {
        "model": "llama3-8b", "seq": 8192, "accelerator": "H100-SXM", "num_accel": 16, "tp": 1, "pp": 1,
        "mbs": 1, "gbs": 16, "framework": "torchtitan", "iteration_time_s": 1.0,
    }  # fmt: skip
    values |= cells
    path = tmp_path / "mine.csv"
    path.write_text(HEADER + "\n" + ",".join(str(values.get(c, "")) for c in HEADER.split(",")) + "\n")
    return describe(read(path, LAYOUTS)[0])


@pytest.mark.parametrize(
    ("word", "meaning"),
    [("full (uniform, 1 layer)", "full"), ("core_attn", "selective"), ("none (offloaded)", "none")],
)
def test_words_of_recomputation(tmp_path: Path, word: str, meaning: str) -> None:
    found = line(tmp_path, recompute=f'"{word}"')
    assert found.job is not None
    assert found.job.recompute == meaning


def test_an_unknown_word_leaves_one_line_out_and_says_so(tmp_path: Path) -> None:
    found = line(tmp_path, recompute="op-level")
    assert found.job is None
    assert "recompute 'op-level'" in found.reason


def test_hybrid_sharding_is_within_a_host(tmp_path: Path) -> None:
    found = line(tmp_path, fsdp="hybrid_shard")
    assert found.job is not None
    assert found.job.parallel.sharding == "zero3"
    assert found.job.parallel.shard == 8
    assert found.job.parallel.data == 16


def test_experts_as_wide_as_the_lines_network(tmp_path: Path) -> None:
    """Grok-1's shape: 64 layers of 8 experts, two of them used; 316 billion parameters by hand."""
    shape = {"layers": 64, "hidden": 6144, "heads": 48, "kv_heads": 8, "ffn": 32768, "vocab": 131072}
    found = line(tmp_path, model="grok-one", experts=8, topk=2, ep=8, **shape)
    assert found.model is not None
    assert found.guessed[0] == "shape"
    assert found.model_class == "moe"
    attention = 2 * 6144 * 6144 + 2 * 6144 * 8 * 128
    layer = attention + 8 * 3 * 6144 * 32768 + 8 * 6144 + 2 * 6144
    assert found.model.parameters() == 64 * layer + 2 * 131072 * 6144 + 6144
    assert line(tmp_path, model="grok-one", experts=8, topk=2, **{**shape, "ffn": ""}).model is None


@pytest.mark.parametrize(
    "accelerator", ["A800-SXM-80GB", "H20", "MI325X", "MI355X", "TPU v6e", "Gaudi2", "gaudi3"]
)
def test_machines_without_tables_are_priced(accelerator: str) -> None:
    from euston import catalog
    from euston.devices import GPU
    from euston.models import Operator

    device = GPU(catalog.accelerator(accelerator))
    n = 8192
    gemm = Operator("up", "gemm", "forward", (n, n, n), 2.0 * n**3, 4.0 * n**2, 2.0 * n**2, "bf16")
    price = device.price(gemm)
    rate = gemm.flops / price.seconds
    assert 0.5 < rate / catalog.accelerator(accelerator).peak["bf16"] <= 1.0
    assert price.provenance != "measured"
