"""Parameter counts against three oracles: sums over module shapes, published totals, printed formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euston import catalog, models
from euston.errors import CatalogError, ConfigError
from euston.models import MLA, MoE, Transformer, transformer

# Hugging Face Hub, safetensors metadata (tensor sums); DeepSeek-V3: sum of tensor headers without the MTP
# layer.
PUBLISHED = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v3": 671_026_419_200,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
}


def module_shapes(model: Transformer) -> list[tuple[int, ...]]:
    """Shapes of every tensor of a checkpoint, module by module as the public implementations build them."""
    h, d = model.hidden, model.head_dim
    shapes: list[tuple[int, ...]] = [(model.vocab, h)]
    if model.positions == "learned":
        shapes.append((model.max_positions, h))

    def norm(width: int) -> None:
        shapes.append((width,))
        if model.norm == "layernorm":
            shapes.append((width,))

    def linear(inputs: int, outputs: int, bias: bool) -> None:
        shapes.append((outputs, inputs))
        if bias:
            shapes.append((outputs,))

    def ffn(width: int) -> None:
        for inputs, outputs in [(h, width)] * (2 if model.gated else 1) + [(width, h)]:
            linear(inputs, outputs, model.biases)

    for index in range(model.layers):
        norm(h)
        if model.mla is not None:
            m = model.mla
            if m.query_rank:
                linear(h, m.query_rank, False)  # q_a_proj
                norm(m.query_rank)
            linear(m.query_rank or h, model.heads * (m.nope_dim + m.rope_dim), False)  # q_b_proj, or q_proj
            linear(h, m.kv_rank + m.rope_dim, False)  # kv_a_proj_with_mqa
            norm(m.kv_rank)
            linear(m.kv_rank, model.heads * (m.nope_dim + m.value_dim), False)  # kv_b_proj
            linear(model.heads * m.value_dim, h, False)
        else:
            linear(h, model.heads * d, model.biases or model.qkv_biases)
            linear(h, model.kv_heads * d, model.biases or model.qkv_biases)
            linear(h, model.kv_heads * d, model.biases or model.qkv_biases)
            linear(model.heads * d, h, model.biases)
            if model.qk_norm:
                shapes += [(d,), (d,)]
        norm(h)
        moe = model.moe
        if moe is None or index < moe.first_dense_layers:
            ffn(model.ffn)
        else:
            linear(h, moe.experts, False)
            if moe.router_bias:
                shapes.append((moe.experts,))
            for _ in range(moe.experts):
                ffn(moe.ffn)
            for _ in range(moe.shared_experts):
                ffn(moe.shared_ffn)
    norm(h)
    if not model.tied:
        shapes.append((model.vocab, h))
    return shapes


@pytest.mark.parametrize("name", catalog.names("models"))
def test_count_is_the_sum_over_module_shapes(name: str) -> None:
    model = transformer(name)
    assert model.parameters() == sum(math.prod(shape) for shape in module_shapes(model))


@pytest.mark.parametrize(("name", "total"), PUBLISHED.items())
def test_count_is_the_published_one(name: str, total: int) -> None:
    assert transformer(name).parameters() == total


def test_catalogue_agrees_with_its_published_counts() -> None:
    """Every model of the catalogue has a published count with a source, and its shapes give it."""
    assert models.check() == []
    for entry in catalog.entries("models"):
        assert entry.sources["published_parameters"] and entry.sources["layers"]


def test_check_reports_a_wrong_shape(tmp_path: Any) -> None:
    (tmp_path / "models.toml").write_text(
        'version = 1\n[sources]\nx = "x"\n[odd]\nsource = "x"\nlayers = 1\nhidden = 8\nheads = 2\n'
        "vocab = 10\nffn = 16\npublished_parameters = 817\n"
    )
    catalog.add_directory(tmp_path)
    try:
        # 2*10*8 + 4*64 + 3*8*16 + 3*8 = 824
        assert models.check() == [
            "`models.odd.published_parameters`: 817 published, 824 counted from the shapes"
        ]
    finally:
        catalog.reset()


def test_deepseek_v3_active() -> None:
    """DeepSeek-V3 README_WEIGHTS.md: 671B in all, 36.6B active without input embedding; 37.55 G with it."""
    model = transformer("deepseek-v3")
    assert round(model.parameters() / 1e9, 2) == 671.03
    assert round(model.parameters(active=True) / 1e9, 2) == 37.55
    # README counts no selection biases: 58 * 256 of them
    assert round((model.parameters(active=True, embedding=False) - 58 * 256) / 1e9, 2) in (36.62, 36.63)
    assert model.layer_parameters(0) < model.layer_parameters(3) == model.layer_parameters()


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3-0.6b", 0.44),
        ("qwen3-8b", 6.95),
        ("qwen3-14b", 13.2),
        ("qwen3-32b", 31.2),
        ("qwen3-30b-a3b", 29.9),
    ],
)
def test_qwen3_without_embeddings(name: str, billions: float) -> None:
    """Model cards, "Number of Parameters (Non-Embedding)": neither input embedding nor logits."""
    model = transformer(name)
    ours = (model.parameters(embedding=False) - model.vocab * model.hidden) / 1e9
    assert ours == pytest.approx(billions, abs=0.06 if billions > 7 else 0.006)


@given(
    st.integers(1, 40),
    st.sampled_from([64, 128, 1536]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 4096).map(lambda n: 8 * n),
)
def test_gpt_formula(layers: int, hidden: int, heads: int, vocab: int) -> None:
    """SC'21 equation 2: 12 l h^2 (1 + 13/(12h) + (V+s)/(12lh)), which leaves out the final norm (2h)."""
    model = gpt(layers, hidden, heads, vocab, 2048)
    formula = 12 * layers * hidden**2 + 13 * layers * hidden + (vocab + 2048) * hidden
    assert model.parameters() == formula + 2 * hidden


def gpt(layers: int, hidden: int, heads: int, vocab: int, sequence: int) -> Transformer:
    return Transformer(
        "gpt",
        layers=layers,
        hidden=hidden,
        heads=heads,
        vocab=vocab,
        gated=False,
        norm="layernorm",
        positions="learned",
        max_positions=sequence,
        biases=True,
        tied=True,
    )


DENSE = [entry.name for entry in catalog.entries("models") if "moe" not in entry.values]


@pytest.mark.parametrize("name", DENSE)
def test_one_rank_holds_everything(name: str) -> None:
    model = transformer(name)
    whole = (
        model.layers * model.rank_parameters()
        + model.rank_parameters("embedding")
        + model.rank_parameters("head")
    )
    copy = model.vocab * model.hidden if model.tied else 0
    assert whole - copy == model.parameters()
    assert model.rank_parameters() == model.layer_parameters()


def test_rank_parameters_split_matrices_and_replicate_norms() -> None:
    model = transformer("llama3-405b")
    norms = 2 * model.hidden
    assert model.rank_parameters(tensor_parallel=8) - norms == (model.rank_parameters() - norms) // 8
    # 16 ranks share 8 KV heads: each keeps a whole one
    kv = 2 * model.hidden * model.head_dim
    assert (
        model.rank_parameters(tensor_parallel=16) - norms - kv
        == (model.rank_parameters() - norms - 8 * kv) // 16
    )
    padded = transformer("gpt3")
    assert padded.rank_parameters("head", 8) == -(-50257 // 8) * 12288 + 2 * 12288


def test_active_is_total_when_every_expert_is_visited() -> None:
    moe = MoE(experts=4, top_k=4, ffn=32)
    model = Transformer("all", layers=2, hidden=16, heads=2, vocab=10, moe=moe)
    assert model.parameters(active=True) == model.parameters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "`model.layers`: 0 must be a positive integer"),
        ({"hidden": 1.5}, "`model.hidden`: 1.5 must be a positive integer"),
        ({"vocab": True}, "`model.vocab`: True must be a positive integer"),
        ({"heads": 3}, "`model.heads`: 3 does not divide hidden = 64; choose a divisor or give head_dim"),
        ({"kv_heads": 3}, "`model.kv_heads`: 3 does not divide heads = 4"),
        ({"norm": "rmsnrm"}, "`model.norm`: unknown norm 'rmsnrm'; did you mean 'rmsnorm'?"),
        (
            {"positions": "learned"},
            "`model.max_positions`: 0 rows of learned positions; give the longest sequence",
        ),
        ({"moe": MoE(2, 3, 8)}, "`model.moe.top_k`: 3 is more than the 2 experts"),
        (
            {"moe": MoE(2, 1, 8, first_dense_layers=3)},
            "`model.moe.first_dense_layers`: 3 is more than 2 layers",
        ),
        ({"mla": MLA(0, 0, 8, 8, 8)}, "`model.mla.kv_rank`: 0 must be a positive integer"),
    ],
)
def test_bad_shapes(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"layers": 2, "hidden": 64, "heads": 4, "vocab": 100}
    with pytest.raises(ConfigError) as error:
        Transformer("bad", **(good | change))
    assert str(error.value) == message


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(CatalogError, match="did you mean 'llama3-405b'"):
        transformer("lama3-405b")
    assert transformer("Llama-3.1-405B") is not None
    assert transformer("meta-llama/Llama-3.1-8B") == transformer("llama3-8b")


def test_incomplete_table() -> None:
    with pytest.raises(ConfigError, match=r"`models.odd`: is incomplete or misspelt \(.*'vocab'\)"):
        Transformer.from_values("odd", {"layers": 1, "hidden": 8, "heads": 1})
    with pytest.raises(ConfigError, match="top"):
        Transformer.from_values(
            "odd", {"layers": 1, "hidden": 8, "heads": 1, "vocab": 2, "moe": {"experts": 2, "top": 1}}
        )


def test_docstring_example() -> None:
    """2 layers of 4*64*64 + 3*64*160 + 2*64, two embeddings of 100*64, a final norm."""
    model = Transformer("tiny", layers=2, hidden=64, heads=4, vocab=100, ffn=160)
    assert model.parameters() == 2 * (4 * 64 * 64 + 3 * 64 * 160 + 2 * 64) + 2 * 100 * 64 + 64
