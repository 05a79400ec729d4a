"""FLOPs and saved bytes against PyTorch itself: `FlopCounterMode` on the meta device, `saved_tensors_hooks`.

The layers are written out in plain torch operations, one product per matrix, independently of our own tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from euston.models import MLA, LayerKind, Mamba, MoE, Transformer

torch = pytest.importorskip("torch")
F = torch.nn.functional

B, S = 2, 32
T = B * S
PLAIN = {"layers": 1, "hidden": 48, "heads": 6, "vocab": 112, "ffn": 80}
MODELS = {
    "dense": Transformer("dense", kv_heads=2, head_dim=16, **PLAIN),
    "gelu": Transformer("gelu", gated=False, **PLAIN),
    "mla": Transformer("mla", mla=MLA(24, 16, 8, 4, 12), **PLAIN),
    "moe": Transformer("moe", moe=MoE(8, 2, 32, shared_experts=1, shared_ffn=24), **PLAIN),
    "mamba": Transformer(
        "mamba", mixers="M", ffns="-", mamba=Mamba(heads=6, head_dim=16, state=8, groups=2, chunk=8), **PLAIN
    ),
}


class Rms(torch.autograd.Function):  # type: ignore[misc, name-defined]
    """RMSNorm that keeps its input, as fused kernels do."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return F.rms_norm(x, x.shape[-1:])

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return grad


class SwiGlu(torch.autograd.Function):  # type: ignore[misc, name-defined]
    """silu(gate) * up in one kernel that keeps both."""

    @staticmethod
    def forward(ctx: Any, both: Any) -> Any:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, -1)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return torch.cat((grad, grad), -1)


class Combine(torch.autograd.Function):  # type: ignore[misc, name-defined]
    """Adds weighted rows to their tokens in one kernel that keeps rows and weights."""

    @staticmethod
    def forward(ctx: Any, out: Any, where: Any, rows: Any, weights: Any) -> Any:
        ctx.save_for_backward(rows, weights.contiguous().clone(), where)
        return out.index_add(0, where, rows * weights.to(rows.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        rows, weights, where = ctx.saved_tensors
        mine = grad.index_select(0, where)
        return (
            grad,
            None,
            mine * weights.to(grad.dtype),
            (mine * rows).sum(-1, keepdim=True).to(weights.dtype),
        )


class Reference:
    """One layer in torch; `attend` is the attention core."""

    def __init__(self, model: Transformer, device: str, dtype: Any, attend: Callable[..., Any]) -> None:
        self.model, self.device, self.dtype, self.attend = model, device, dtype, attend
        self.weights: list[Any] = []

    def linear(self, x: Any, outputs: int) -> Any:
        weight = torch.randn(outputs, x.shape[-1], device=self.device, dtype=self.dtype).div_(8)
        weight.requires_grad_()
        self.weights.append(weight)
        return F.linear(x, weight)

    def heads(self, x: Any, heads: int) -> Any:
        return x.view(B, S, heads, -1).transpose(1, 2)

    def mlp(self, x: Any, inner: int) -> Any:
        if self.model.gated:
            return self.linear(SwiGlu.apply(self.linear(x, 2 * inner)), self.model.hidden)
        return self.linear(F.gelu(self.linear(x, inner)), self.model.hidden)

    def attention(self, x: Any) -> Any:
        m = self.model
        if m.mla is not None:
            a, mla = m.heads, m.mla
            q = self.linear(Rms.apply(self.linear(x, mla.query_rank)), a * (mla.nope_dim + mla.rope_dim))
            down = self.linear(x, mla.kv_rank + mla.rope_dim)
            compressed, rotary = down.split((mla.kv_rank, mla.rope_dim), -1)
            up = self.linear(Rms.apply(compressed.contiguous()), a * (mla.nope_dim + mla.value_dim))
            k, v = self.heads(up, a).split((mla.nope_dim, mla.value_dim), -1)
            k = torch.cat((k, rotary.view(B, 1, S, -1).expand(-1, a, -1, -1)), -1)
            return self.linear(self.attend(self.heads(q, a), k, v.contiguous()), m.hidden)
        d = m.head_dim
        parts = self.linear(x, (m.heads + 2 * m.kv_heads) * d).split(
            (m.heads * d, m.kv_heads * d, m.kv_heads * d), -1
        )
        q, k, v = (self.heads(p, p.shape[-1] // d) for p in parts)
        return self.linear(self.attend(q, k, v), m.hidden)

    def experts(self, x: Any) -> Any:
        moe = self.model.moe
        assert moe is not None
        probabilities = self.linear(x, moe.experts).float().softmax(-1)
        # forced balance: token t goes to experts t and t + 1 (mod E); every expert gets T k / E rows
        flat, out = x.reshape(T, -1), torch.zeros(T, x.shape[-1], device=self.device, dtype=self.dtype)
        weights = probabilities.view(T, moe.experts)
        for e in range(moe.experts):
            where = torch.tensor(
                [t for t in range(T) for j in range(moe.top_k) if (t + j) % moe.experts == e], device="cpu"
            ).to(self.device)
            rows = self.mlp(flat.index_select(0, where), moe.ffn)
            part = weights.index_select(0, where)[:, e : e + 1]
            out = Combine.apply(out, where, rows, part)
        return out.view_as(x) + self.mlp(x, moe.shared_experts * moe.shared_ffn)

    def mamba(self, x: Any) -> Any:
        m = self.model.mamba
        assert m is not None
        inner, shared = m.inner, m.groups * m.state
        z, xs, b, c, _ = self.linear(x, 2 * inner + 2 * shared + m.heads).split(
            (inner, inner, shared, shared, m.heads), -1
        )
        chunks, q, per = S // m.chunk, m.chunk, m.heads // m.groups
        xs = xs.reshape(B, chunks, q, m.heads, m.head_dim).permute(0, 1, 3, 2, 4)
        b, c = (y.reshape(B, chunks, q, m.groups, m.state).permute(0, 1, 3, 2, 4) for y in (b, c))
        within = (c @ b.transpose(-1, -2)).repeat_interleave(per, 2) @ xs
        wide_b, wide_c = (y.repeat_interleave(per, 2) for y in (b, c))
        states = wide_b.transpose(-1, -2) @ xs
        y = within + wide_c @ states
        y = y.permute(0, 1, 3, 2, 4).reshape(B, S, inner)
        return self.linear(Rms.apply(y * F.silu(z)), self.model.hidden)

    def __call__(self, x: Any) -> Any:
        kind = self.model.layer_kinds[0]
        if kind.mixer == "mamba":
            x = x + self.mamba(Rms.apply(x))
        else:
            x = x + self.attention(Rms.apply(x))
        if kind.ffn == "none":
            return x
        inner = Rms.apply(x)
        return x + (self.experts(inner) if kind.ffn == "moe" else self.mlp(inner, self.model.ffn))


def products(q: Any, k: Any, v: Any) -> Any:
    """Attention over the full square as two products per head."""
    k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], 1) for y in (k, v))
    out = (q @ k.transpose(-1, -2)).softmax(-1) @ v
    return out.transpose(1, 2).reshape(B, S, -1)


def fused(q: Any, k: Any, v: Any) -> Any:
    """A flash kernel's memory: query, key, value and output as heads lie, and a number per row."""

    class Flash(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:
            wide_k, wide_v = (y.repeat_interleave(q.shape[1] // y.shape[1], 1) for y in (k, v))
            out = ((q @ wide_k.transpose(-1, -2)).softmax(-1) @ wide_v).transpose(1, 2).contiguous()
            lse = torch.zeros(q.shape[:3], dtype=torch.float32)
            ctx.save_for_backward(q.contiguous(), k.contiguous(), v.contiguous(), out, lse)
            return out.view(B, S, -1)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return tuple(torch.zeros_like(y) for y in ctx.saved_tensors[:3])

    return Flash.apply(q, k, v)


@pytest.mark.parametrize("name", MODELS)
def test_flops_of_a_layer(name: str) -> None:
    """Every product forward and backward; a flash kernel halves the square and repeats the scores."""
    from torch.utils.flop_counter import FlopCounterMode

    model = MODELS[name]
    reference = Reference(model, "meta", torch.float32, products)
    x = torch.randn(B, S, model.hidden, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = reference(x)
    forward = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    backward = counter.get_total_flops()

    ops = model.operators(T, S, tensor_parallel=1)

    def ours(phase: str, *kinds: str) -> float:
        return sum(op.flops for op in ops if op.phase == phase and op.kind in kinds)

    products_only = ("gemm", "grouped_gemm", "scan")
    square = 2 * ours("forward", "attention")
    assert ours("forward", *products_only) + square == forward
    scan = sum(op.flops for op in ops if op.kind == "scan" and op.phase == "backward")
    again = 0.0
    if model.mamba is not None:  # the kernels make C B^T and the chunks' states again
        m = model.mamba
        again = T * (2 * m.chunk * m.state * m.groups + 2 * m.state * m.head_dim * m.heads)
        assert scan == 2 * ours("forward", "scan") + again
    assert ours("backward", *products_only) - again + 2 * square == backward


@pytest.mark.parametrize("name", ["dense", "mla", "moe"])
def test_saved_bytes_of_a_layer(name: str) -> None:
    """Floating-point storages that autograd keeps, each once, weights left out: ours within 3 %."""
    model = MODELS[name]
    reference = Reference(model, "cpu", torch.bfloat16, fused)
    x = torch.randn(B, S, model.hidden, dtype=torch.bfloat16, requires_grad=True)
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = reference(x)
    weights = {w.untyped_storage().data_ptr() for w in reference.weights}
    measured = sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)
    del y
    assert model.activation_bytes(T, S) == pytest.approx(measured, rel=0.03)


def test_encoder_flops() -> None:
    """Bidirectional attention: the whole square, forward; patches never attend across images."""
    from euston.models import transformer

    model = transformer("qwen2-vl-7b")
    v = model.vision
    assert v is not None
    images, patches = 3, 64
    ops = model.encoder_operators(images, patches)
    attention = [op for op in ops if op.kind == "attention" and op.phase == "forward"]
    assert sum(op.flops for op in attention) == 4 * images * patches**2 * v.hidden * v.layers
    assert not any(op.causal for op in attention)
    matrices = sum(op.flops for op in ops if op.kind == "gemm" and op.phase == "forward")
    tokens, h = images * patches, v.hidden
    per_layer = 2 * tokens * (4 * h * h + 2 * h * v.ffn)
    projector = 2 * (tokens // 4) * (4 * h * v.projector + v.projector * model.hidden)
    assert matrices == v.layers * per_layer + projector + 2 * tokens * v.pixels * h


def test_window_counts_only_its_keys() -> None:
    """Sum over queries of min(i + 1/2, w) keys: half of the diagonal block, as everywhere."""
    model = Transformer("w", mixers="SA", window=8, layers=2, hidden=48, heads=6, vocab=10)
    keys = sum(min(i + 0.5, 8) for i in range(S))
    per_layer = {}
    for kind in (LayerKind("sliding", "dense"), LayerKind("attention", "dense")):
        ops = model.operators(T, S, kind=kind)
        per_layer[kind.mixer] = sum(
            op.flops for op in ops if op.kind == "attention" and op.phase == "forward"
        )
    assert per_layer["attention"] == 4 * T * (S / 2) * 48
    assert per_layer["sliding"] == pytest.approx(4 * B * keys * 48, rel=0.01)


class Traffic:
    """Bytes that eager PyTorch reads and writes, views apart: operands in, results out."""

    def __init__(self) -> None:
        from torch.utils._python_dispatch import TorchDispatchMode

        self.read = self.written = 0.0
        traffic = self

        class Mode(TorchDispatchMode):  # type: ignore[misc]
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
                out = func(*args, **(kwargs or {}))
                if not func.is_view and func.overloadpacket.__name__ not in ("detach", "split_with_sizes"):
                    flat = [x for a in args for x in (a if isinstance(a, list | tuple) else [a])]
                    made = out if isinstance(out, list | tuple) else [out]
                    wide = [x for x in flat if isinstance(x, torch.Tensor) and x.numel() > 4096]
                    traffic.read += sum(x.numel() * x.element_size() for x in wide)
                    traffic.written += sum(
                        x.numel() * x.element_size() for x in made if x is not None and x.numel() > 4096
                    )
                return out

        self.mode = Mode


def test_clamped_experts_move_what_eager_torch_moves() -> None:
    """The clamp before a fused activation, written as Megatron-Core writes it."""
    from euston.models._feed_forward import CLAMP

    x = torch.randn(512, 256, dtype=torch.bfloat16, requires_grad=True)
    forward, backward = Traffic(), Traffic()
    with forward.mode():
        gate, up = x.chunk(2, -1)
        y = torch.cat((gate.clamp(min=None, max=7.0), up.clamp(min=-7.0, max=7.0)), -1)
    gradient = torch.ones_like(y.detach())
    with backward.mode():
        y.backward(gradient)
    n = x.numel()
    assert (forward.read / n, forward.written / n) == pytest.approx(CLAMP[0])
    assert (backward.read / n, backward.written / n) == pytest.approx(CLAMP[1])


def test_expert_biases_move_what_eager_torch_moves() -> None:
    """Biases weighted by probabilities, added for one expert after the other."""
    from euston.models._feed_forward import EXPERT_BIAS

    counts = [256, 256]
    x = torch.randn(512, 256, dtype=torch.bfloat16, requires_grad=True)
    bias = [torch.randn(256, dtype=torch.bfloat16, requires_grad=True) for _ in counts]
    probability = torch.rand(512, 1, dtype=torch.bfloat16, requires_grad=True)
    forward, backward = Traffic(), Traffic()
    with forward.mode():
        parts = zip(torch.split(x, counts), bias, torch.split(probability, counts), strict=True)
        y = torch.cat([t + b * p for t, b, p in parts])
    gradient = torch.ones_like(y.detach())
    with backward.mode():
        y.backward(gradient)
    n = x.numel()
    assert (forward.read / n, forward.written / n) == pytest.approx(EXPERT_BIAS[0])
    assert (backward.read / n, backward.written / n) == pytest.approx(EXPERT_BIAS[1])
