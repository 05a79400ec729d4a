"""The conformance test passes for every registered policy and catches broken ones."""

from dataclasses import replace

import numpy as np
import pytest

from euston.fabrics import LinkKind
from euston.network.balancing import BALANCING
from euston.network.balancing.adaptive import Adaptive
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.flowlet import Flowlet
from euston.network.balancing.oblivious import Oblivious
from euston.network.balancing.spray import Spray
from euston.network.balancing.wcmp import Wcmp
from euston.testing import PolicyError, check_policy


@pytest.mark.parametrize("name", BALANCING.names())
def test_registered_balancing_policies_conform(name):
    check_policy(BALANCING.get(name)())


def test_variants_conform():
    check_policy(Spray(adaptive=True))
    check_policy(Ecmp(qps=4, seed=3))
    check_policy(Ecmp(hash="crc32", polarised=True, connections="flow"))
    check_policy(Oblivious(penalty=0.2))
    check_policy(Flowlet(scheme="conga", paths=3))
    check_policy(Adaptive(per="packet"))
    check_policy(Wcmp({"tor_up/p0/t0/a1": 3.0, "agg_up/p0/a0/c0": 0.5}))


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


class _Leaky(Ecmp):
    """Half of every flow leaves its ToR on another uplink than the one it arrives from."""

    def spread(self, fabric, src, dst, *, alive, **kwargs):
        a, b = (Ecmp(seed=seed).spread(fabric, src, dst, alive=alive, **kwargs) for seed in (1, 2))
        up = np.isin(fabric.kind[np.maximum(a.row - fabric.bundles, 0)], [LinkKind.TOR_UP])
        same = a.row.size == b.row.size and (a.ptr == b.ptr).all()
        return replace(a, row=np.where(up & same, b.row, a.row), split=a.split | b.split)


class _Deaf(Flowlet):
    def candidates(self, *args, **kwargs):
        return replace(super().candidates(*args, **kwargs), rule=7)


class _Elsewhere(Flowlet):
    def candidates(self, *args, **kwargs):
        return replace(super().candidates(*args, **kwargs), pair=np.zeros(args[1].size, np.int32))


class _Unseen(Flowlet):
    def spread(self, *args, **kwargs):
        return Ecmp(seed=self.seed + 1).spread(*args, **kwargs)


class _Wasteful(Spray):
    def delivered(self, fabric):
        return np.full(fabric.links, 1.5)


class _Wordless(Spray):
    packet = None


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (_Halved(), "must sum to 1"),
        (_Blind(), "dead link"),
        (_Fickle(), "same answer twice"),
        (_Leaky(), "must leave it again"),
        (_Deaf(), "StartRule"),
        (_Elsewhere(), "`pair`"),
        (_Unseen(), "first candidate"),
        (_Wasteful(), "`delivered`"),
        (_Wordless(), "`packet`"),
        (np.zeros(3), "no policy"),
    ],
)
def test_broken_policies_are_caught(policy, message):
    with pytest.raises(PolicyError, match=message):
        check_policy(policy)
