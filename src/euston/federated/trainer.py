"""Local training: H steps of one machine on its own text, from any position of the learning-rate schedule."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from euston.errors import ConfigError
from euston.federated.decoder import Decoder
from euston.federated.inner import inner_optimizer
from euston.federated.layout import Flat
from euston.federated.schedule import learning_rate

if TYPE_CHECKING:
    from euston.federated.config import FederationConfig
    from euston.federated.stream import TokenStream

__all__ = ["Trained", "Trainer", "initial_parameters"]

Floats = NDArray[np.float32]


def initial_parameters(config: FederationConfig) -> Floats:
    """The flat vector that every run with this model and seed starts from."""
    decoder = Decoder(config.model, config.seed)
    with torch.no_grad():
        return torch.cat([p.flatten() for p in decoder.parameters()]).numpy().copy()


@dataclass(frozen=True)
class Trained:
    """What one run of local steps did; `losses`, float64[steps], one by one."""

    steps: int
    samples: int
    tokens: int
    loss_mean: float
    loss_last: float
    seconds: float
    losses: torch.Tensor


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("`local.device`: no CUDA device is visible to torch; use cpu or auto")
    return torch.device(name)


class Trainer:
    """A model, its inner optimiser and a stream of tokens on one machine.

    Parameters and gradients are one flat vector each, of which the model's tensors are views: what crosses
    the network is a slice, and the optimiser runs a handful of kernels however many layers there are.
    """

    def __init__(self, config: FederationConfig, stream: TokenStream) -> None:
        self.config, self.local, self.stream = config, config.local, stream
        if self.local.threads:
            torch.set_num_threads(self.local.threads)
        self.layout = Flat.of(config.model)
        self.device = _device(self.local.device)
        self.decoder = Decoder(config.model).to(self.device)
        self.flat = torch.nn.Parameter(torch.zeros(self.layout.size, device=self.device))
        self.flat.grad = torch.zeros_like(self.flat)
        decayed = torch.zeros_like(self.flat.data) if self.local.weight_decay else None
        for parameter, s in zip(self.decoder.parameters(), self.layout.slices, strict=True):
            parameter.data = self.flat.data[s].view(parameter.shape)
            parameter.grad = self.flat.grad[s].view(parameter.shape)
            if decayed is not None and parameter.dim() == 2:
                decayed[s] = 1.0
        self.inner = inner_optimizer(self.flat, self.local, decayed)

    def parameters(self) -> Floats:
        """A copy of the flat vector."""
        return self.flat.detach().cpu().numpy().copy()

    def load(self, values: Floats) -> None:
        """Set the flat vector."""
        with torch.no_grad():
            self.flat.copy_(torch.from_numpy(np.ascontiguousarray(values)))

    def state(self) -> dict[str, Any]:
        """Moments and cursor, copied."""
        return {
            "first": self.inner.first.cpu().numpy().copy(),
            "second": self.inner.second.cpu().numpy().copy(),
            "steps": self.inner.steps,
            "cursor": self.stream.cursor,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave; without moments in it, they start at zero."""
        self.inner.reset()
        if "first" in state:
            with torch.no_grad():
                self.inner.first.copy_(torch.from_numpy(np.ascontiguousarray(state["first"])))
                self.inner.second.copy_(torch.from_numpy(np.ascontiguousarray(state["second"])))
            self.inner.steps = int(state["steps"])
        self.stream.cursor = int(state["cursor"])

    def run(
        self,
        steps: int,
        position: int,
        *,
        before: Callable[[int], None] | None = None,
        stop_at: float = float("inf"),
        begun: Trained | None = None,
    ) -> Trained:
        """Train.

        Parameters
        ----------
        steps : int
        position : int
            Serial steps the federation has made: where the schedule stands.
        before : callable, optional
            Told the number of each step (from 0) before it is made; Streaming DiLoCo merges there.
        stop_at : float
            `time.monotonic` by which to have stopped; at least one step is made.
        begun : Trained, optional
            Steps of this run that have been made already; what comes back covers them too.
        """
        local, total = self.local, self.config.schedule_steps
        cast = (
            torch.autocast(self.device.type, dtype=torch.bfloat16)
            if local.precision == "bf16"
            else nullcontext()
        )
        began = time.perf_counter()
        losses: list[torch.Tensor] = []
        gradient = self.flat.grad
        assert gradient is not None
        slowest, last = 0.0, time.monotonic()
        first = 0 if begun is None else begun.steps
        for i in range(first, steps):
            if i and last + slowest > stop_at:
                break
            if before is not None:
                before(i)
            windows = torch.from_numpy(self.stream.batch(local.batch)).to(self.device)
            gradient.zero_()
            with cast:
                loss = self.decoder.loss(windows)
            loss.backward()  # type: ignore[no-untyped-call]
            if local.clip:
                norm = torch.linalg.vector_norm(gradient)
                gradient.mul_((local.clip / (norm + 1e-6)).clamp_(max=1.0))
            self.inner.step(learning_rate(local, position + i, total))
            losses.append(loss.detach())
            now = time.monotonic()
            slowest, last = max(slowest, now - last), now
        values = torch.stack(losses).double().cpu() if losses else torch.zeros(0, dtype=torch.float64)
        spent = time.perf_counter() - began
        if begun is not None:
            values, spent = torch.cat((begun.losses, values)), spent + begun.seconds
        samples = len(values) * local.batch
        return Trained(
            len(values), samples, samples * local.sequence, float(values.mean()), float(values[-1]),
            spent, values,
        )  # fmt: skip
