"""ECMP as switches do it: zlib's CRC32, balls in bins, a plain walk through the fabric, polarisation."""

from __future__ import annotations

import ipaddress
import math
import struct
import zlib
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from euston.errors import ConfigError, RouteError
from euston.fabrics import Fabric, LinkKind, clos, clos3, leaf_spine, rail_optimized
from euston.network.balancing._hash import crc32, five_tuple, mix, salts, source_ports
from euston.network.balancing.ecmp import Ecmp
from euston.network.balancing.expected import expected_max_load, idle_fraction
from euston.network.balancing.spray import Spray

NIC = 50e9


def three_tiers(aggs: int = 4, cores: int = 4, tors: int = 4, hosts: int = 64) -> Fabric:
    return clos3(
        hosts, 1, nic=NIC, hosts_per_tor=4, tors_per_pod=tors, aggs_per_pod=aggs, cores_per_agg=cores
    )  # fmt: skip


def ints(*values: object) -> list[NDArray[np.int32]]:
    return [np.asarray(v, np.int32) for v in values]


def routes(policy: Ecmp, fabric: Fabric, src: NDArray[np.int32], dst: NDArray[np.int32]) -> NDArray[np.int32]:
    number = policy.choices(fabric, src, dst, np.zeros(src.size, np.int32))
    return fabric.route(src, dst, number)


def used(links: NDArray[np.int32], fabric: Fabric, kind: LinkKind) -> NDArray[np.int64]:
    """How many of the paths cross each link of a kind."""
    count = np.bincount(links[links >= 0], minlength=fabric.links)
    return count[fabric.kind == kind]


# ---- the hash ----------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=13, max_size=13), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_crc32_is_zlibs(keys: list[bytes], start: int) -> None:
    rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 13)
    assert crc32(rows, start).tolist() == [zlib.crc32(key, start) for key in keys]
    starts = (np.arange(len(keys), dtype=np.uint32) * 7919 + np.uint32(start)).astype(np.uint32)
    expected = [zlib.crc32(key, int(s)) for key, s in zip(keys, starts, strict=True)]
    assert crc32(rows, starts).tolist() == expected


def test_the_five_tuple_stands_as_in_the_packet() -> None:
    src, dst = ints([5, 70000], [70001, 0])
    port = np.array([0xC001, 0xFFFF], np.uint16)
    for row, s, d, p in zip(five_tuple(src, dst, port), src, dst, port, strict=True):
        packed = struct.pack(
            ">IIBHH",
            int(ipaddress.ip_address("10.0.0.0")) + int(s), int(ipaddress.ip_address("10.0.0.0")) + int(d),
            17, int(p), 4791,
        )  # fmt: skip
        assert row.tobytes() == packed


def test_queue_pairs_have_ports_of_their_own() -> None:
    src, dst, qp = (x.ravel().astype(np.int32) for x in np.meshgrid([1, 2], [3, 4], range(1000)))
    port = source_ports(src, dst, np.zeros_like(qp), qp, 7)
    assert port.min() >= 0xC000
    pairs = np.unique(np.stack((src, dst, port)), axis=1)
    assert pairs.shape[1] == port.size


def test_mix_tells_all_inputs_apart() -> None:
    """The finaliser is a bijection: distinct in, distinct out; and of 16 bins none is preferred."""
    words = mix(np.arange(1 << 16, dtype=np.uint64))
    assert np.unique(words).size == words.size
    bins = np.bincount((words % np.uint64(16)).astype(int))
    assert np.abs(bins / 4096 - 1).max() < 0.1


# ---- against a plain walk ----------------------------------------------------------------------------------


def walk(policy: Ecmp, fabric: Fabric, s: int, d: int, dead: set[int]) -> list[int]:
    """Switch by switch in plain Python: live next hops towards d, in order; hash(five-tuple, salt) % n."""
    out_of: dict[int, list[int]] = {}
    for link in range(fabric.links):
        if link not in dead and fabric.kind[link] >= LinkKind.NIC_UP:
            out_of.setdefault(int(fabric.link_src[link]), []).append(link)

    def onwards(node: int, hops: int) -> list[int]:
        """Links from a node that lie on a live path of so many links to d."""
        if hops == 0:
            return []
        found = []
        for link in out_of.get(node, []):
            head = int(fabric.link_dst[link])
            if (hops == 1 and head == d) or (hops > 1 and head != d and onwards(head, hops - 1)):
                found.append(link)
        return found

    length = next(n for n in (2, 4, 6) if onwards(s, n) or n == 6)
    key = five_tuple(*ints([s], [d]), source_ports(*ints([s], [d], [0], [0]), policy.seed))
    node, path = s, []
    for hops in range(length, 0, -1):
        choice = onwards(node, hops)
        nic = node < fabric.endpoints  # chooses a plane where it has ports on several
        salt = salts(np.array([-1 if policy.polarised and not nic else node]), policy.seed)
        plain = zlib.crc32(key.tobytes())
        if policy.hash == "murmur" or nic:
            word = int(mix(np.array([plain], np.uint64) ^ salt)[0])
        else:
            word = zlib.crc32(key.tobytes(), int(salt[0]) & 0xFFFFFFFF)
        path.append(choice[word % len(choice)])
        node = int(fabric.link_dst[path[-1]])
    return path


FABRICS = {
    "three tiers": three_tiers(2, 3, 2, 16),
    "leaf-spine": leaf_spine(8, 1, nic=NIC, hosts_per_leaf=2, spines=5),
    "rails": rail_optimized(6, 2, nic=NIC, hosts_per_segment=2, spines=3),
    "scale-up and half a pod": clos(
        7, 2, nic=NIC, hosts_per_tor=1, tors_per_pod=3, aggs_per_pod=2, cores_per_agg=2, scale_up=9 * NIC
    ),
    "two planes": clos(12, 1, nic=NIC, hosts_per_tor=2, aggs_per_pod=3, planes=2),
}


@pytest.mark.parametrize("name", FABRICS)
@pytest.mark.parametrize("broken", [0, 3])
@pytest.mark.parametrize(
    "policy",
    [Ecmp(seed=3), Ecmp(hash="crc32"), Ecmp(polarised=True), Ecmp(hash="crc32", polarised=True)],
    ids=str,
)
def test_every_switch_hashes_for_itself(name: str, broken: int, policy: Ecmp) -> None:
    fabric = FABRICS[name]
    rng = np.random.default_rng(broken)
    between = np.flatnonzero(fabric.kind >= LinkKind.TOR_UP)
    dead = set(rng.choice(between, broken, replace=False).tolist())
    alive = np.ones(fabric.links, bool)
    alive[list(dead)] = False
    src = rng.integers(0, fabric.endpoints, 24).astype(np.int32)
    dst = ((src + rng.integers(1, fabric.endpoints, 24)) % fabric.endpoints).astype(np.int32)
    for s, d in zip(*(x.tolist() for x in (src, dst)), strict=True):
        one = ints([s], [d])
        number = policy.choices(fabric, *one, np.zeros(1, np.int32), alive=alive)
        try:
            links = fabric.route(*one, number, alive=alive)[0]
        except RouteError:
            continue
        assert links[links >= 0].tolist() == walk(policy, fabric, s, d, dead)
    together = policy.choices(fabric, src, dst, np.zeros(24, np.int32), alive=alive)
    alone = [
        policy.choices(fabric, *ints([s], [d]), np.zeros(1, np.int32), alive=alive)[0]
        for s, d in zip(src, dst, strict=True)
    ]
    assert together.tolist() == alone


# ---- balls in bins -----------------------------------------------------------------------------------------


def outcomes(m: int, n: int) -> tuple[Fraction, Fraction]:
    """Expected largest load and idle share, by going through all n^m outcomes."""
    largest = idle = Fraction(0)
    for bins in product(range(n), repeat=m):
        load = np.bincount(np.array(bins, int), minlength=n)
        largest += int(load.max())
        idle += Fraction(int((load == 0).sum()), n)
    return largest / n**m, idle / n**m


@pytest.mark.parametrize(("m", "n"), [(1, 4), (4, 1), (3, 3), (5, 2), (2, 6), (5, 4), (0, 3)])
def test_expectations_equal_enumeration(m: int, n: int) -> None:
    largest, idle = outcomes(m, n)
    assert expected_max_load(m, n) == pytest.approx(float(largest), rel=1e-12)
    assert idle_fraction(m, n) == pytest.approx(float(idle), rel=1e-12)


def test_expectations_of_nothing() -> None:
    for function in (expected_max_load, idle_fraction):
        with pytest.raises(ConfigError):
            function(3, 0)


def test_a_permutation_of_as_many_flows_as_uplinks_leaves_one_in_e_idle() -> None:
    """64 flows on 64 uplinks, 100 seeds: (1 - 1/64)^64 = 0.365 idle; the largest load as computed."""
    fabric = leaf_spine(128, 1, nic=NIC, hosts_per_leaf=64, spines=64)
    src, dst = ints(np.arange(64), 64 + np.roll(np.arange(64), 5))
    idle, largest = [], []
    for seed in range(100):
        load = used(routes(Ecmp(seed=seed), fabric, src, dst), fabric, LinkKind.TOR_UP)[:64]
        idle.append((load == 0).mean())
        largest.append(load.max())
    assert np.mean(idle) == pytest.approx(idle_fraction(64, 64), abs=0.01)
    assert np.mean(idle) == pytest.approx(math.exp(-1), abs=0.015)
    assert np.mean(largest) == pytest.approx(expected_max_load(64, 64), abs=0.25)


# ---- polarisation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("aggs", "cores"), [(4, 4), (4, 6), (3, 4), (8, 4)])
def test_polarised_switches_use_a_share_of_the_core_links(aggs: int, cores: int) -> None:
    """One hash decides twice: of A*C (agg, core) pairs only lcm(A, C) occur.

    m flows that leave a pod use n*(1 - (1 - 1/n)^m) of its A*C core links: n = A*C with salts of their own,
    n = lcm(A, C) with one for all.
    """
    fabric = three_tiers(aggs, cores)
    src, dst = (x.ravel().astype(np.int32) for x in np.meshgrid(range(16), range(16, 24)))
    pairs = aggs * cores
    for polarised, bins in ((False, pairs), (True, math.lcm(aggs, cores))):
        share = []
        for seed in range(60):
            paths = routes(Ecmp(polarised=polarised, seed=seed), fabric, src, dst)
            share.append((used(paths, fabric, LinkKind.AGG_UP)[:pairs] > 0).mean())
        expected = bins / pairs * (1 - idle_fraction(src.size, bins))
        assert np.mean(share) == pytest.approx(expected, abs=0.02)


def test_salting_a_crc_does_not_take_polarised_flows_apart() -> None:
    """CRC32 is linear: from one ToR all flows of an agg hash to one core, whatever the salts.

    With 4 aggs and 4 cores each, a power of two, (crc ^ constant) % 4 depends on crc % 4 only.
    """
    fabric = three_tiers(4, 4)
    src, dst = (x.ravel().astype(np.int32) for x in np.meshgrid(range(4), range(16, 64)))
    for seed in range(5):
        salted = routes(Ecmp(hash="crc32", seed=seed), fabric, src, dst)
        mixed = routes(Ecmp(seed=seed), fabric, src, dst)
        assert (used(salted, fabric, LinkKind.AGG_UP) > 0).sum() == 4
        assert (used(mixed, fabric, LinkKind.AGG_UP) > 0).sum() == 16


def test_a_plane_chosen_at_the_nic_leaves_one_hash_and_no_polarisation() -> None:
    """Dual plane, two tiers (HPN, SIGCOMM 2024): after the NIC only the ToR hashes; alike or not, m flows
    use n(1 - (1 - 1/n)^m) of their n uplinks, those of both planes together."""
    fabric = clos(32, 1, nic=NIC, hosts_per_tor=16, aggs_per_pod=16, planes=2)
    src, dst = ints(np.arange(16), np.arange(16, 32))
    uplinks = int(fabric.capacity[fabric.kind == LinkKind.TOR_UP].size) // 2
    for polarised in (False, True):
        share = []
        for seed in range(200):
            paths = routes(Ecmp(polarised=polarised, seed=seed), fabric, src, dst)
            share.append((used(paths, fabric, LinkKind.TOR_UP) > 0).sum() / uplinks)
        assert np.mean(share) == pytest.approx(1 - idle_fraction(16, uplinks), abs=0.01)


# ---- queue pairs -------------------------------------------------------------------------------------------


def test_many_queue_pairs_approach_spraying() -> None:
    """With q queue pairs a link's share is a mean of q draws: its error falls as 1/sqrt(q)."""
    fabric = three_tiers()
    src, dst = ints(np.arange(16), np.arange(48, 64))
    args = {"alive": None, "capacity": np.array(fabric.capacity)}
    ideal = Spray().spread(fabric, src, dst, **args)  # type: ignore[arg-type]
    target = fabric.link_load(np.bincount(ideal.row, weights=ideal.fraction, minlength=fabric.rows))
    error = []
    for qps in (1, 16, 256, 4096):
        found = Ecmp(qps=qps).spread(fabric, src, dst, **args)  # type: ignore[arg-type]
        load = fabric.link_load(np.bincount(found.row, weights=found.fraction, minlength=fabric.rows))
        error.append(np.abs(load - target).max())
    assert error == sorted(error, reverse=True)
    assert error[-1] < 0.05
    assert error[-1] < error[0] / 20


def test_flows_of_a_pair_share_a_path_unless_each_brings_its_own_connection() -> None:
    fabric = leaf_spine(4, 1, nic=NIC, hosts_per_leaf=2, spines=64)
    src, dst = ints([0] * 32 + [1], [3] * 32 + [2])
    shared = routes(Ecmp(), fabric, src, dst)
    own = routes(Ecmp(connections="flow"), fabric, src, dst)
    assert np.unique(shared[:32], axis=0).shape[0] == 1
    assert np.unique(own[:32], axis=0).shape[0] > 16
    assert (own[[0, 32]] == shared[[0, 32]]).all()


def test_the_seed_decides() -> None:
    fabric = three_tiers()
    src, dst = ints(np.arange(16), np.arange(48, 64))
    a, b, c = (routes(Ecmp(seed=s), fabric, src, dst) for s in (4, 4, 5))
    assert (a == b).all()
    assert (a != c).any()
    assert (routes(Ecmp(seed=2**64 + 4), fabric, src, dst) == a).all()


@pytest.mark.parametrize(
    "settings", [{"qps": 0}, {"qps": 20_000}, {"hash": "md5"}, {"connections": "packet"}], ids=str
)
def test_settings_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(settings))}`"):
        Ecmp(**settings)  # type: ignore[arg-type]
