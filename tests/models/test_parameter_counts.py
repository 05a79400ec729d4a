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
    # mistral.ai/news/codestral-mamba prints the number; the others: safetensors metadata
    "mamba-codestral-7b": 7_285_403_648,
    "qwen2-vl-7b": 8_291_375_616,
    "llava-1.5-7b": 7_063_427_072,
}


class Tensors:
    """Shapes of every tensor of a checkpoint, module by module as the public implementations build them."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.shapes = model, [(model.vocab, model.hidden)]
        h = model.hidden
        if model.positions == "learned":
            self.add(model.max_positions, h)
        for index in range(model.layers):
            kind = model.layer_kinds[index]
            if kind.mixer != "none":
                self.norms()
            if kind.mixer == "mamba":
                self.mamba()
            elif kind.attends:
                self.latent() if model.mla is not None else self.attention()
            if kind.ffn != "none":
                self.norms()
                self.ffn(model.ffn, model.biases) if kind.ffn == "dense" else self.experts()
        self.norm(h)
        if not model.tied:
            self.add(model.vocab, h)
        if model.vision is not None:
            self.vision()

    def add(self, *shape: int) -> None:
        self.shapes.append(shape)  # type: ignore[arg-type]

    def norm(self, width: int, shift: bool | None = None) -> None:
        self.add(width)
        if self.model.norm == "layernorm" if shift is None else shift:
            self.add(width)

    def norms(self) -> None:
        for _ in range(2 if self.model.post_norms else 1):
            self.norm(self.model.hidden)

    def linear(self, inputs: int, outputs: int, bias: bool = False) -> None:
        self.add(outputs, inputs)
        if bias:
            self.add(outputs)

    def ffn(self, width: int, bias: bool) -> None:
        h = self.model.hidden
        for inputs, outputs in [(h, width)] * (2 if self.model.gated else 1) + [(width, h)]:
            self.linear(inputs, outputs, bias)

    def attention(self) -> None:
        model = self.model
        h, d = model.hidden, model.head_dim
        inner = model.biases or model.qkv_biases or model.attention_biases
        self.linear(h, model.heads * d, inner)
        self.linear(h, model.kv_heads * d, inner)
        self.linear(h, model.kv_heads * d, inner)
        self.linear(model.heads * d, h, model.biases or model.attention_biases)
        if model.qk_norm:
            self.shapes += [(d,), (d,)]  # type: ignore[list-item]
        if model.sinks:
            self.add(model.heads)

    def latent(self) -> None:
        model, m = self.model, self.model.mla
        assert m is not None
        if m.query_rank:
            self.linear(model.hidden, m.query_rank)  # q_a_proj
            self.norm(m.query_rank)
        self.linear(m.query_rank or model.hidden, model.heads * (m.nope_dim + m.rope_dim))  # q_b_proj, q_proj
        self.linear(model.hidden, m.kv_rank + m.rope_dim)  # kv_a_proj_with_mqa
        self.norm(m.kv_rank)
        self.linear(m.kv_rank, model.heads * (m.nope_dim + m.value_dim))  # kv_b_proj
        self.linear(model.heads * m.value_dim, model.hidden)

    def experts(self) -> None:
        model, moe = self.model, self.model.moe
        assert moe is not None
        self.linear(model.hidden, moe.experts, moe.router_bias)
        for _ in range(moe.experts):
            self.ffn(moe.ffn, moe.expert_biases)
        for _ in range(moe.shared_experts):
            self.ffn(moe.shared_ffn, False)
        if moe.shared_gate:
            self.linear(model.hidden, 1)

    def mamba(self) -> None:
        model, m = self.model, self.model.mamba
        assert m is not None
        inner = m.heads * m.head_dim
        if m.version == 2:  # Mamba2Mixer: in_proj, conv1d, dt_bias, A_log, D, norm, out_proj
            channels = inner + 2 * m.groups * m.state
            self.linear(model.hidden, inner + channels + m.heads)
            self.add(channels, 1, m.conv)
            self.add(channels)
            self.shapes += [(m.heads,)] * 3 + [(inner,)]  # type: ignore[list-item]
        else:  # JambaMambaMixer: conv1d, in_proj, x_proj, dt_proj, A_log, D, out_proj, three norms
            self.add(inner, 1, m.conv)
            self.add(inner)
            self.linear(model.hidden, 2 * inner)
            self.linear(inner, m.time_rank + 2 * m.state)
            self.linear(m.time_rank, inner, True)
            self.add(inner, m.state)
            self.add(inner)
            if m.time_norms:
                self.shapes += [(m.time_rank,), (m.state,), (m.state,)]  # type: ignore[list-item]
        self.linear(inner, model.hidden)

    def vision(self) -> None:
        v = self.model.vision
        assert v is not None
        h = v.hidden
        self.add(h, 3, v.frames, v.patch, v.patch)
        if v.class_token:
            self.add(h)
        if v.positions:
            self.add(v.positions, h)
        for _ in range(int(v.pre_norm) + int(v.post_norm) + int(v.projector_norm) + 2 * v.layers):
            self.norm(h, True)
        for _ in range(v.layers):
            self.linear(h, 3 * h, True)
            self.linear(h, h, True)
            self.linear(h, v.ffn, True)
            self.linear(v.ffn, h, True)
        self.linear(h * v.merge**2, v.projector, True)
        self.linear(v.projector, self.model.hidden, True)


def module_shapes(model: Transformer) -> list[tuple[int, ...]]:
    return Tensors(model).shapes  # type: ignore[return-value]


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


@pytest.mark.parametrize("name", catalog.names("models"))
def test_one_rank_holds_everything(name: str) -> None:
    model = transformer(name)
    whole = sum(n * model.rank_parameters(kind=kind) for kind, n in model.kind_counts.items())
    whole += sum(model.rank_parameters(part) for part in ("embedding", "head", "encoder"))  # type: ignore[arg-type]
    copy = model.vocab * model.hidden if model.tied else 0
    assert whole - copy == model.parameters()
    assert model.rank_parameters() == model.layer_parameters()


@given(st.sampled_from(["deepseek-v3", "gpt-oss-120b", "mixtral-8x7b"]), st.sampled_from([1, 2, 4, 8]))
def test_expert_ranks_hold_everything_once(name: str, ranks: int) -> None:
    """Experts are dealt out, the rest is on every rank; splitting each expert divides its matrices."""
    model = transformer(name)
    whole, share = model.rank_share(), model.rank_share(expert_parallel=ranks)
    assert share.dense == whole.dense
    assert share.experts * ranks == whole.experts
    assert model.moe is not None
    split = model.rank_share(tensor_parallel=2, expert_parallel=ranks, expert_tensor=2).experts
    biases = model.moe.experts // ranks * model.hidden if model.moe.expert_biases else 0
    assert (split - biases) * 2 == share.experts - biases
    assert (
        model.rank_share(tensor_parallel=2, expert_parallel=ranks, expert_tensor=1).experts == share.experts
    )


def test_prediction_layer_of_deepseek_v3() -> None:
    """README_WEIGHTS.md: the prediction module has 11.5B parameters of its own (shared ones left out)."""
    model = transformer("deepseek-v3")
    own = model.parameters(prediction_layers=True) - model.parameters()
    assert own / 1e9 == pytest.approx(11.5, abs=0.12)  # the layer alone is 11.51
    assert own == model.rank_parameters("prediction")


def test_vision_encoder_of_qwen2_vl() -> None:
    """arXiv:2409.12191: a vision transformer of 675M parameters."""
    vision = transformer("qwen2-vl-7b").vision
    assert vision is not None
    assert round(vision.parameters(3584) / 1e6) == 676
    assert vision.patches(448, 672) == 32 * 48
    assert vision.tokens(32 * 48) == 16 * 24


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
