"""PyTorch DDP over a `UdpGroup`: a communication hook, and parameters that are evened out now and then.

::

    group = UdpGroup(rank, world, store)
    state = DdpState(group, model)
    model.register_comm_hook(state, all_reduce_hook)
    for batch in data:
        loss(model(batch)).backward()
        optimizer.step()
        state.after_step()
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from euston.collectives.runtime.group import ReduceReport, UdpGroup

if TYPE_CHECKING:
    import torch

__all__ = ["DdpState", "all_reduce_hook"]


class DdpState:
    """What the hook works with: one thread that exchanges buckets in the order in which they come.

    Parameters
    ----------
    group : UdpGroup
    module : torch.nn.Module, optional
        Whose parameters are evened out; without it nothing is.
    every : int
        Steps between two times; results that were lost make replicas drift apart until then. 0: never.

    Attributes
    ----------
    reports : deque of ReduceReport
        The latest exchanges.
    drift : float
        Relative distance of our parameters from rank 0's, at the last time.
    skip_step : bool
        The last step's gradients are to be thrown away: some rank had NaN or Inf.
    """

    def __init__(self, group: UdpGroup, module: Any = None, *, every: int = 100) -> None:
        self.group, self.module, self.every = group, module, every
        self.reports: deque[ReduceReport] = deque(maxlen=1000)
        self.steps, self.drift, self.skip_step = 0, 0.0, False
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="udp-exchange", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            tensor, bucket, future = job
            try:
                report = self._reduce(tensor, bucket)
                self.reports.append(report)
                self.skip_step |= report.skipped
                future.set_result(tensor)
            except BaseException as error:  # a future without a result would hang the backward pass
                future.set_exception(error)

    def _reduce(self, tensor: torch.Tensor, bucket: int) -> ReduceReport:
        import torch

        if tensor.dtype == torch.float32:
            return self.group.all_reduce(tensor, bucket=bucket, label=f"bucket {bucket}")
        wide = tensor.float()
        report = self.group.all_reduce(wide, bucket=bucket, label=f"bucket {bucket}")
        tensor.copy_(wide)
        return report

    def after_step(self) -> bool:
        """Call after the optimiser's step; whether parameters were evened out."""
        self.steps += 1
        self.skip_step = False
        if self.module is None or not self.every or self.steps % self.every:
            return False
        self.drift = synchronise_parameters(self.group, self.module)
        return True

    def close(self) -> None:
        """End the thread; the group stays open."""
        self._jobs.put(None)
        self._thread.join(timeout=5.0)


def all_reduce_hook(state: DdpState, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """Average a bucket of gradients over the group; see `torch` ``register_comm_hook``."""
    import torch

    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    state._jobs.put((bucket.buffer(), bucket.index(), future))
    return future


# DDP compares annotations with its own types, not with their names; without any it takes the hook
all_reduce_hook.__annotations__.clear()


def synchronise_parameters(group: UdpGroup, module: torch.nn.Module) -> float:
    """Give everybody rank 0's parameters; how far ours were off, relative to their norm."""
    import torch

    with torch.no_grad():
        parameters = [p for p in module.parameters() if p.requires_grad]
        flat = torch.cat([p.detach().reshape(-1).float() for p in parameters]).contiguous()
        before = flat.clone()
        group.broadcast(flat)
        at = 0
        for p in parameters:
            p.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()
        norm = float(flat.norm())
        return float((flat - before).norm()) / norm if norm else 0.0
