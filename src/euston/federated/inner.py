"""Inner optimisers on one flat parameter: torch's AdamW, ADOPT, plain SGD; their whole state is two
vectors and a count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from euston.federated.config import LocalConfig

__all__ = ["Inner", "inner_optimizer"]


class Inner:
    """An optimiser step on a flat parameter; weight decay is decoupled and spares vectors (norms, biases).

    Attributes
    ----------
    first, second : float32[parameters]
        Moments; zero to begin with.
    steps : int
        Steps since they were zero.
    """

    def __init__(self, flat: torch.nn.Parameter, local: LocalConfig, decayed: Tensor | None) -> None:
        self.flat, self.local, self.decayed = flat, local, decayed
        self.first, self.second = torch.zeros_like(flat.data), torch.zeros_like(flat.data)
        self.steps = 0

    def reset(self) -> None:
        """Forget everything."""
        self.first.zero_()
        self.second.zero_()
        self.steps = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step along ``flat.grad``."""
        if self.decayed is not None:
            self.flat.mul_(1.0 - lr * self.local.weight_decay * self.decayed)
        self.update(lr)
        self.steps += 1

    def update(self, lr: float) -> None:
        """Plain gradient descent."""
        assert self.flat.grad is not None
        self.flat.sub_(self.flat.grad, alpha=lr)


class _AdamW(Inner):
    """torch's own AdamW (Loshchilov & Hutter 2019)."""

    def __init__(self, flat: torch.nn.Parameter, local: LocalConfig, decayed: Tensor | None) -> None:
        super().__init__(flat, local, decayed)
        self.torch = torch.optim.AdamW(
            [flat],
            lr=local.lr,
            betas=(local.beta1, local.beta2),
            eps=local.eps,
            weight_decay=0.0,
            foreach=False,
        )
        self.count = torch.tensor(0.0)
        self.torch.state[flat] = {"step": self.count, "exp_avg": self.first, "exp_avg_sq": self.second}

    def update(self, lr: float) -> None:
        """One step of Adam."""
        self.count.fill_(float(self.steps))
        self.torch.param_groups[0]["lr"] = lr
        self.torch.step()


class _Adopt(Inner):
    """ADOPT with the clipped ratio (Taniguchi et al. 2024, Algorithm 2): the first step only fills
    `second`.
    """

    def update(self, lr: float) -> None:
        """One step of ADOPT."""
        gradient, local = self.flat.grad, self.local
        assert gradient is not None
        if self.steps:
            ratio = gradient / self.second.sqrt().clamp_(min=local.eps)
            bound = self.steps**0.25
            ratio.clamp_(-bound, bound)
            self.first.lerp_(ratio, 1.0 - local.beta1)
            self.flat.sub_(self.first, alpha=lr)
            self.second.mul_(local.beta2).addcmul_(gradient, gradient, value=1.0 - local.beta2)
        else:
            self.second.copy_(gradient).square_()


_KINDS: dict[str, type[Inner]] = {"adamw": _AdamW, "adopt": _Adopt, "sgd": Inner}


def inner_optimizer(flat: torch.nn.Parameter, local: LocalConfig, decayed: Tensor | None = None) -> Inner:
    """The optimiser that `local` asks for; `decayed` is 1 where weight decay applies."""
    return _KINDS[local.optimizer](flat, local, decayed if local.weight_decay else None)
