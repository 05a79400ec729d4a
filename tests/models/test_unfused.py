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
VIEWS = ("view", "slice", "split", "expand", "_unsafe_view", "detach", "empty", "unsqueeze", "t", "alias")


class Bytes(TorchDispatchMode):
    """Adds up the bytes of tensors with at least `least` elements that operations read and write."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least, self.read, self.written = least, 0, 0

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
