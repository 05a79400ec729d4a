"""Compute utilisation of a training run across sites against the bandwidth between them, layer by layer.

A small exact simulation: forward and backward pass through the layers, the exchange of each layer through
one link in the order in which gradients become ready, and forward passes that wait for what they need.
"""

from __future__ import annotations

from dataclasses import dataclass

from euston.errors import ConfigError

__all__ = ["Exchange", "required_bandwidth", "utilisation"]

FORWARD = 1.0 / 3.0
"""Share of a step that is its forward pass: 2 of 6 FLOPs per parameter and token."""


@dataclass(frozen=True)
class Exchange:
    """What is exchanged, and when.

    Attributes
    ----------
    layers : int
    step : float
        Seconds of computation per step.
    bits : float
        Of the whole model, as it is sent.
    period : int
        H: steps between two exchanges of a layer; 1 is data parallelism.
    fragments : int
        F: layer i belongs to fragment i mod F, which is exchanged at step ``H (f + 1) / F`` of each period.
    overlap : int
        tau: further steps that may run before what was exchanged is needed.
    """

    layers: int
    step: float
    bits: float
    period: int = 1
    fragments: int = 1
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.period < 1 or not 1 <= self.fragments <= min(self.layers, self.period):
            raise ConfigError(f"`fragments`: {self.fragments} must lie between 1 and layers and period")
        if not (self.step > 0 and self.bits > 0):
            raise ConfigError("`step`, `bits`: must be above 0")


def utilisation(exchange: Exchange, bandwidth: float, periods: int = 4) -> float:
    """Share of time that computes, over the last of `periods` periods.

    Parameters
    ----------
    exchange : Exchange
    bandwidth : float
        bit/s of the link.
    periods : int
        Run before, so that the link's queue is as in a long run.
    """
    e = exchange
    forward, backward = e.step * FORWARD / e.layers, e.step * (1.0 - FORWARD) / e.layers
    seconds = e.bits / e.layers / bandwidth
    due: dict[int, list[int]] = {}
    for f in range(e.fragments):
        due.setdefault((e.period * (f + 1) // e.fragments) % e.period, []).extend(
            range(f, e.layers, e.fragments)
        )
    waits: dict[
        int, list[tuple[int, float]]
    ] = {}  # step -> (layer, when its exchange is over), layers ascending
    now = link = began = 0.0
    steps = e.period * periods
    for t in range(1, steps + 1):
        at, layer = now, 0
        for waiting, until in sorted(waits.pop(t, ())):
            at = max(at + (waiting - layer) * forward, until)
            layer = waiting
        at += (e.layers - layer) * forward
        for sent in sorted(due.get(t % e.period, ()), reverse=True):
            ready = at + (e.layers - sent) * backward
            link = max(link, ready) + seconds
            waits.setdefault(t + 1 + e.overlap, []).append((sent, link))
        now = at + e.layers * backward
        if t == steps - e.period:
            began = now
    return e.period * e.step / (now - began)


def required_bandwidth(exchange: Exchange, target: float) -> float:
    """Least bandwidth (bit/s) at which `target` of the time computes; utilisation only grows with it."""
    if not 0.0 < target < 1.0:
        raise ConfigError(f"`target`: {target} must lie between 0 and 1")
    low, high = 1.0, 1e15
    while high / low > 1.0 + 1e-6:
        middle = (low * high) ** 0.5
        if utilisation(exchange, middle) >= target:
            high = middle
        else:
            low = middle
    return high
