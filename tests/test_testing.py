"""The conformance test passes for every registered policy and catches broken ones."""

from dataclasses import replace

import numpy as np
import pytest

from euston.network.balancing import BALANCING
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.spray import Spray
from euston.testing import PolicyError, check_policy


@pytest.mark.parametrize("name", BALANCING.names())
def test_registered_balancing_policies_conform(name):
    check_policy(BALANCING.get(name)())


def test_variants_conform():
    check_policy(Spray(adaptive=True))
    check_policy(Ecmp(qps=4, seed=3))


class _Halved(Spray):
    def spread(self, *args, **kwargs):
        found = super().spread(*args, **kwargs)
        return replace(found, fraction=found.fraction / 2)


class _Blind(Ecmp):
    def spread(self, fabric, src, dst, *, alive, **kwargs):
        return super().spread(fabric, src, dst, alive=None, **kwargs)


class _Fickle(Ecmp):
    calls = 0

    def spread(self, *args, **kwargs):
        type(self).calls += 1
        return Ecmp(seed=self.calls).spread(*args, **kwargs)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (_Halved(), "must sum to 1"),
        (_Blind(), "dead link"),
        (_Fickle(), "same answer twice"),
        (np.zeros(3), "no policy"),
    ],
)
def test_broken_policies_are_caught(policy, message):
    with pytest.raises(PolicyError, match=message):
        check_policy(policy)
