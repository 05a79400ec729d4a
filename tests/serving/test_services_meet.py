"""Two services on one site: their hand-overs meet on its links.

Oracle: a link that two equal hand-overs share is half as fast for each; links of their own change nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from euston import scenario as scenarios
from euston.clock.conductor import Conductor
from euston.errors import BadInput
from euston.runs import serving
from euston.simulate import simulate

KV = 131_072 * 4000  # bytes: Llama-3 8B's per token x a prompt, less its last token


def document(thin: str, *, network: str = "fluid", services: int = 2, **second: Any) -> dict[str, Any]:
    """Prefill on switches a and c, decode on b and d; all paths cross the cable h-g."""
    chat = {
        "kind": "serving", "model": "llama3-8b", "step_times": "roofline",
        "pools": [{"role": "prefill"}, {"role": "decode"}],
        "workload": {
            "generator": "independent", "requests": 1, "arrivals": "constant", "rate": 1,
            "settings": {"prompt": 4001, "answer": 2},
        },
    }  # fmt: skip
    fast = [[s, "h", "400 Gb/s"] for s in "ac"] + [["g", s, "400 Gb/s"] for s in "bd"]
    return {
        "version": 1, "run": {"network": network},
        "sites": [
            {
                "name": "lab", "accelerator": "h100-sxm", "hosts": 4, "accelerators_per_host": 1,
                "fabric": {
                    "kind": "graph", "nic": "400 Gb/s", "cables": [*fast, ["h", "g", thin]],
                    "switches": ["a", "b", "c", "d", "g", "h"],
                    "hosts_per_switch": {"a": 1, "b": 1, "c": 1, "d": 1},
                },
            }
        ],
        "jobs": [{"name": "chat", **chat}, {"name": "other", **chat, **second}][:services],
    }  # fmt: skip


def seconds(given: dict[str, Any]) -> dict[str, list[float]]:
    """Of every hand-over, by service."""
    ready = serving.prepare(scenarios.from_data(given))
    network = serving.network(ready.services)
    engines = [serving.components(one, 0, one.name)[0] for one in ready.services]
    Conductor([*engines, network]).run()
    return network.seconds


@pytest.mark.parametrize(("thin", "each"), [("400 Gb/s", 25e9), ("800 Gb/s", 50e9), ("80 Gb/s", 5e9)])
def test_two_hand_overs_share_a_cable(thin: str, each: float) -> None:
    found = seconds(document(thin))
    assert found["chat"] == pytest.approx([KV / each], rel=1e-3) == found["other"]
    alone = seconds(document(thin, services=1))
    assert alone["chat"] == pytest.approx([KV / min(2 * each, 50e9)], rel=1e-3)


def test_a_run_has_them_meet() -> None:
    """The second token comes later by what the other takes of the cable; without a network it does not."""

    def e2e(**changes: Any) -> float:
        return float(simulate(scenarios.from_data(document("80 Gb/s", **changes))).scalars["e2e_mean"])

    assert e2e() - e2e(services=1) == pytest.approx(KV / 10e9, rel=1e-3)
    assert e2e(network="none") == e2e(network="none", services=1)
    both = simulate(scenarios.from_data(document("80 Gb/s")))
    assert both.tables["jobs"]["job"].to_list() == ["chat", "other"]
    one_pool = e2e(pools=[{"replicas": 1}])  # sends nothing
    assert one_pool == e2e(services=1)


def test_hosts_of_their_own() -> None:
    with pytest.raises(BadInput, match=r"jobs\[1\]\.placement.*used by job 'chat'"):
        simulate(scenarios.from_data(document("80 Gb/s", placement={"first_host": 1})))


def test_a_job_may_be_called_network() -> None:
    given = document("80 Gb/s")
    given["jobs"][0]["name"] = "network"
    assert simulate(scenarios.from_data(given)).scalars["done"] == 1
