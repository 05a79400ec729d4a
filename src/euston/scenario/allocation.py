"""How a scenario file names an allocation policy: who is in which switch queue, and the queues' weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from euston.errors import BadInput, ConfigError, at
from euston.network.allocation import ALLOCATION, AllocationPolicy, Allocator
from euston.registry import Registry
from euston.scenario._base import Text
from euston.scenario.policies import PolicySection

if TYPE_CHECKING:
    from euston.fabrics import Fabric

__all__ = ["AllocationSection"]

_WHERE = "policies.allocation"
T = TypeVar("T")


def _placed(act: Callable[[], T]) -> T:
    """What ``act`` gives; its errors name the place in the file."""
    try:
        return act()
    except BadInput as error:
        message = str(error)
        where = f"`{_WHERE}.{message[1:]}" if message.startswith("`") else at(_WHERE, message)
        raise ConfigError(where) from None


class AllocationSection(PolicySection):
    """Queues and their weights: ``max_min``, or ``{kind: per_job, weights: {a: 1, b: 3}}``."""

    registry: ClassVar[Registry] = ALLOCATION
    default: ClassVar[str] = "max_min"

    kind: Text = "max_min"

    def make(self) -> AllocationPolicy:
        """The policy."""
        made: AllocationPolicy = self._make({"kind": self.kind, **self.settings}, 0)
        return made

    def check(self, jobs: Sequence[str]) -> None:
        """Refuse settings that cannot fit these jobs, as far as that shows without a fabric.

        Raises
        ------
        ConfigError
            Naming the key in the file.
        """
        policy = self.make()
        if hasattr(policy, "check_jobs"):
            _placed(lambda: policy.check_jobs(jobs))

    def begin(self, fabric: Fabric, jobs: Sequence[str], kinds: Sequence[str]) -> Allocator:
        """The policy's decisions for one run; see `AllocationPolicy.begin`.

        Raises
        ------
        ConfigError
            Naming the key in the file.
        """
        return _placed(lambda: self.make().begin(fabric, jobs, kinds))
