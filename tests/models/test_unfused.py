"""Kernels that a framework leaves apart: bytes against what PyTorch's own operations read and write."""

from __future__ import annotations

from typing import Any

import pytest

from euston.errors import ConfigError
from euston.models import transformer
from euston.models.operator import Operator

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

#: Operations that only make another view, or set nothing up.
VIEWS = (
    "view",
    "slice",
    "split",
    "split_with_sizes",
    "expand",
    "_unsafe_view",
    "detach",
    "empty",
    "unsqueeze",
    "t",
    "alias",
)


class Bytes(TorchDispatchMode):
    """Adds up the bytes of tensors with at least `least` elements that operations read and write.

    `single`: those of element-wise operations, copies and concatenations with an operand that is strided or
    broadcast, which PyTorch's kernels for accelerators do not vectorise.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.read, self.written, self.single = least, 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            flat = [x for a in args for x in (a if isinstance(a, (list, tuple)) else [a])]
            reads = [] if name in ("zeros", "new_zeros") else flat
            if name == "copy_":  # the first argument is written only
                reads, self.written = flat[1:], self.written + self._size(flat[0])
            elif name == "slice_backward":  # zeros, then a copy into them
                self.written += 2 * self._size(out)
            else:
                self.written += self._size(out)
            self.read += sum(self._size(x) for x in reads)
            joins = name == "cat"
            if joins or name == "clone" or torch.Tag.pointwise in func.tags:
                operands = [x for x in flat if isinstance(x, torch.Tensor) and x.numel()]
                if any(not x.is_contiguous() or (x.shape != out.shape and not joins) for x in operands):
                    self.single += self._size(out) + sum(self._size(x) for x in operands)
        return out

    def _size(self, x: Any) -> int:
        big = isinstance(x, torch.Tensor) and x.numel() >= self.least
        return x.numel() * x.element_size() if big else 0


def rotated(t: Any, angles: Any, scale: float) -> Any:
    """Rotary positions as a plain formula: cosine part, half-turned sine part, an empty rest joined on."""
    turning, rest = t[..., : angles.shape[-1]], t[..., angles.shape[-1] :]
    cosine, sine = (torch.cos(angles) * scale).to(t.dtype), (torch.sin(angles) * scale).to(t.dtype)
    first, second = torch.chunk(turning, 2, dim=-1)
    turned = turning * cosine + torch.cat((-second, first), dim=-1) * sine
    return torch.cat((turned, rest), dim=-1)


def layer(model: str, **keys: Any) -> list[Operator]:
    return transformer(model).operators(4096, 4096, expert_parallel=8, expert_tensor=1, **keys)


def moved(ops: list[Operator], name: str, phase: str) -> float:
    return sum(op.bytes for op in ops if op.name == name and op.phase == phase)


def test_eager_rotations_move_what_pytorch_moves() -> None:
    """Oracle: the formula run by PyTorch, with every operation's tensors counted."""
    sequence, heads, dim = 64, 8, 64
    t = torch.randn(sequence, 1, heads, dim, dtype=torch.bfloat16, requires_grad=True)
    angles = torch.randn(sequence, 1, 1, dim)
    least = t.numel() // 2  # a half of it is big, the angles are not
    with Bytes(least) as forward:
        out = rotated(t, angles, 1.3466)
    gradient = torch.randn_like(out)
    with Bytes(least) as backward:
        out.backward(gradient)
    model = transformer("gpt-oss-120b")
    columns = (model.heads + model.kv_heads) * model.head_dim
    eager = layer("gpt-oss-120b", rotary_kernel="eager")
    for phase, counted in (("forward", forward), ("backward", backward)):
        ours = moved(eager, "rotary", phase) / (4096 * columns)
        assert ours == pytest.approx((counted.read + counted.written) / t.numel(), rel=0.01), phase
        assert moved(eager, "rotary", phase) > 4 * moved(layer("gpt-oss-120b"), "rotary", phase)
    assert next(op for op in eager if op.name == "rotary").calls == 24
    replayed = layer("gpt-oss-120b", rotary_kernel="eager", graphs="partial")
    assert next(op for op in replayed if op.name == "rotary").calls == 1


def clamped(x: Any) -> Any:
    """Both halves clamped and joined again, before a fused activation."""
    gate, up = x.chunk(2, -1)
    return torch.cat((gate.clamp(min=None, max=7.0), up.clamp(min=-7.0, max=7.0)), -1)


def biased(x: Any) -> Any:
    """An expert's bias, weighted by its rows' probabilities, added for one expert after the other."""
    counts = [x.shape[0] // 2] * 2
    bias = [torch.randn(x.shape[1], dtype=x.dtype, requires_grad=True) for _ in counts]
    probability = torch.rand(x.shape[0], 1, dtype=x.dtype, requires_grad=True)
    parts = zip(torch.split(x, counts), bias, torch.split(probability, counts), strict=True)
    return torch.cat([t + b * p for t, b, p in parts])


def turned(x: Any) -> Any:
    return rotated(x.view(x.shape[0], 1, 8, -1), torch.randn(x.shape[0], 1, 1, x.shape[1] // 8), 1.3466)


@pytest.mark.parametrize(
    ("name", "run"), [("expert_clamp", clamped), ("expert_bias", biased), ("rotary", turned)]
)
def test_operations_on_strided_or_broadcast_operands_move_single_elements(name: str, run: Any) -> None:
    """Oracle: the formula run by PyTorch; an operation is single by the layout of its operands there."""
    x = torch.randn(512, 256, dtype=torch.bfloat16, requires_grad=True)
    with Bytes(x.numel() // 4) as forward:
        y = run(x)
    gradient = torch.randn_like(y)
    with Bytes(x.numel() // 4) as backward:
        y.backward(gradient)
    ops = layer("gpt-oss-120b", rotary_kernel="eager", recompute="selective", recompute_modules=("moe_act",))
    by_phase = {op.phase: op for op in ops if op.name == name}
    for phase, counted in (("forward", forward), ("backward", backward)):
        op = by_phase[phase]
        ours = op.bytes_single / (op.shape[0] * op.shape[1])
        assert ours == pytest.approx(counted.single / x.numel()), phase
        assert 0 < op.bytes_single < op.bytes
    again = by_phase.get("recompute")
    assert (again is not None) == (name == "expert_clamp")
    assert again is None or again.bytes_single == by_phase["forward"].bytes_single


def test_fused_kernels_move_no_single_elements() -> None:
    for model in ("qwen3-30b-a3b", "deepseek-v3", "llama3-8b"):
        assert not any(op.bytes_single for op in layer(model, activation_kernel="compiled"))


def test_a_compiled_activation_moves_twice_as_much_backward() -> None:
    """Oracle: 3 elements forward and 5 backward at least; the published ratios give 8 x 2.56 in all."""
    for model, name in (("qwen3-30b-a3b", "expert_activation"), ("llama3-8b", "ffn_activation")):
        plain, compiled = layer(model), layer(model, activation_kernel="compiled")
        least = moved(plain, name, "forward") / 3.0
        assert moved(compiled, name, "forward") == pytest.approx(3.0 * least)
        assert moved(plain, name, "backward") == pytest.approx(5.0 * least)
        # forward 1.6 times the least, all 2.56 times: backward over forward
        expected = (8.0 * 2.56 - 3.0 * 1.6) / (3.0 * 1.6)
        ratio = moved(compiled, name, "backward") / moved(compiled, name, "forward")
        assert ratio == pytest.approx(expected, rel=0.03)


def test_a_fused_loss_is_10_bytes_per_logit() -> None:
    """Oracle: 16-bit logits read twice and written once forward, read and written once backward."""
    model = transformer("llama3-8b")
    ops = model.operators(4096, 4096, part="head", loss="fused")
    logits = 4096 * model.vocab
    assert moved(ops, "cross_entropy", "forward") == 6 * logits
    assert moved(ops, "cross_entropy", "backward") == 4 * logits


def test_dispatchers_sort_or_not_and_padding_copies_once_each_way() -> None:
    """Oracle: rows x hidden, 16 bit, read and written; none of it in 16-bit precision."""
    rows = 4096 * 8 * 2048.0
    names = ("expert_sort", "expert_unsort", "expert_pad", "expert_unpad")

    def copied(**keys: Any) -> dict[str, float]:
        ops = layer("qwen3-30b-a3b", **keys)
        return {
            f"{name} {phase}": moved(ops, name, phase) / rows
            for name in names
            for phase in ("forward", "backward")
            if moved(ops, name, phase)
        }

    assert set(copied()) == {f"{n} {p}" for n in names[:2] for p in ("forward", "backward")}
    assert copied(dispatcher="deepep") == {}
    padded = copied(dispatcher="deepep", precision="fp8-current", expert_padding=True)
    assert set(padded) == {f"{n} {p}" for n in names[2:] for p in ("forward", "backward")}
    assert list(padded.values()) == pytest.approx([4.0] * 4, rel=0.05)  # the busiest rank's rows
    assert copied(expert_padding=True) == copied()
    with pytest.raises(ConfigError, match="deepep"):
        layer("qwen3-30b-a3b", dispatcher="deep")


def parted(mixed: Any, heads: int, groups: int, dim: int, norm: bool, rotary: bool) -> tuple[Any, Any, Any]:
    """Queries, keys and values as Megatron-Core and Transformer Engine get them, but for other kernels."""
    each = heads // groups
    mixed = mixed.view(*mixed.shape[:2], groups, (each + 2) * dim)
    q, k, v = torch.split(mixed, [each * dim, dim, dim], dim=3)
    q = q.reshape(q.shape[0], q.shape[1], -1, dim)
    if norm:
        q, k = q.contiguous(), k.contiguous()
    one = q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr() and q.shape == k.shape
    if rotary:  # what one kernel writes anew is contiguous, and no copy
        q, k = written_anew(q), written_anew(k)
    elif one and not norm:  # three equal ones, side by side in one matrix
        return q, k, v
    return q.contiguous(), k.contiguous(), v.contiguous()


class Anew(torch.autograd.Function):
    """A kernel that reads any strides and writes a contiguous result, there and back; counted elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.empty(x.shape, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return torch.empty(gradient.shape, dtype=gradient.dtype)


def written_anew(x: Any) -> Any:
    return Anew.apply(x)


@pytest.mark.parametrize(
    ("model", "tensor"),
    [
        ("llama3-8b", 1), ("llama3-8b", 8), ("llama2-7b", 1), ("qwen3-30b-a3b", 1), ("qwen3-30b-a3b", 4),
        ("gpt-oss-120b", 1), ("gpt3-175b", 1), ("nemotron-h-8b", 1),
    ],
)  # fmt: skip
def test_queries_keys_and_values_are_copied_out_of_their_matrix(model: str, tensor: int) -> None:
    """Oracle: the same views, copies and concatenation run by PyTorch, with every operation's tensors."""
    m = transformer(model)
    heads, groups, dim, tokens = m.heads // tensor, m.kv_heads // tensor, m.head_dim, 32
    kind = next(kind for kind in m.layer_kinds if kind.attends)
    width = (heads + 2 * groups) * dim
    mixed = torch.randn(tokens, 1, width, dtype=torch.bfloat16, requires_grad=True)
    with Bytes(1) as forward:
        parts = parted(mixed, heads, groups, dim, m.qk_norm, m.positions == "rotary")
    gradients = [torch.randn_like(x, memory_format=torch.contiguous_format) for x in parts]
    with Bytes(1) as backward:
        torch.autograd.backward(parts, gradients)
    layout: dict[str, Any] = {"tensor_parallel": tensor, "expert_tensor": 1, "kind": kind}
    copying = m.operators(tokens, tokens, qkv_split="copies", **layout)
    ops = {op.phase: op for op in copying if op.name == "qkv_split"}
    if not ops:
        assert forward.read == forward.written == 0
        return
    for phase, counted in (("forward", forward), ("backward", backward)):
        assert ops[phase].bytes == pytest.approx(counted.read + counted.written), phase
        assert ops[phase].bytes_single == pytest.approx(counted.single), phase
    assert not any(op.name == "qkv_split" for op in m.operators(tokens, tokens, **layout))
