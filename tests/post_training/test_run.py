"""Post-training from a scenario.

Oracles: a training scenario of the same rows prices the update, a service of the same requests the rollouts,
and a push takes the bytes over the rate of NICs; bad files are one located sentence.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import euston as eu
from euston import scenario as scenarios
from euston.cli._app import app
from euston.collectives.network_rates import P2P_LATENCY, SCALE_OUT_EFFICIENCY
from euston.errors import BadInput
from euston.network.balancing.spray import Spray
from euston.post_training import Trajectory, push_seconds
from euston.result import Result
from euston.runs.post_training import Updates, prepare

FILE: dict[str, Any] = {
    "version": 1,
    "name": "rl",
    "sites": [
        {"name": "lab", "accelerator": "h100-sxm", "hosts": 2, "fabric": {"preset": "generic-400g-rail"}}
    ],
    "jobs": [
        {
            "name": "grpo",
            "kind": "post_training",
            "model": "llama3.2-1b",
            "mode": "synchronous",
            "prompts": 8,
            "steps": 4,
            "trajectories": {
                "prompt": 100,
                "response": {"kind": "lognormal", "p50": 100, "p99": 900},
                "samples": 2,
                "longest": 2048,
            },
            "rollout": {"replicas": 8},
            "update": {"parallel": {"data": 8}, "software": "mcore-2024"},
        }
    ],
    "run": {"compute": "analytic", "network": "none"},
}


def with_(**changes: Any) -> dict[str, Any]:
    """The file with changes of its job; ``rollout__replicas=4`` goes into a section."""
    data = copy.deepcopy(FILE)
    for key, value in changes.items():
        at = data["jobs"][0]
        *path, last = key.split("__")
        for name in path:
            at = at.setdefault(name, {})
        at[last] = value
    return data


def test_the_update_is_a_training_step_of_as_many_rows() -> None:
    data = with_(update__micro=2)
    for compute, network in (("analytic", "none"), ("des", "fluid")):
        data["run"] = {"compute": compute, "network": network}
        ready = prepare(scenarios.from_data(data))
        updates = Updates(ready, ready.layouts[0])
        batch = [Trajectory(i, i, 100, [900]) for i in range(64)]
        rows = 64 * 1000 / 2048  # 31.25 of 2,048 tokens; two to each of 8 replicas at a time
        assert updates.rows(batch) == 32 == -(-rows // 16) * 16
        training = {
            **data,
            "jobs": [
                {
                    "name": "grpo", "kind": "training", "model": "llama3.2-1b", "parallel": {"data": 8},
                    "batch": {"global": 32, "micro": 2, "sequence": 2048}, "software": "mcore-2024",
                }
            ],
        }  # fmt: skip
        assert updates(batch) == pytest.approx(
            eu.simulate(scenarios.from_data(training)).scalars["step_time"], rel=1e-9
        )


def test_a_batch_is_generated_as_the_same_requests_are_served() -> None:
    data = with_(steps=1, trajectories__response=300, trajectories__samples=1, prompts=64)
    found = eu.simulate(scenarios.from_data(data))
    serving = {
        **data,
        "jobs": [
            {
                "name": "s", "kind": "serving", "model": "llama3.2-1b", "pools": [{"replicas": 8}],
                "workload": {
                    "generator": "independent", "requests": 64, "concurrency": 64,
                    "settings": {"prompt": 100, "answer": 300},
                },
            }
        ],
    }  # fmt: skip
    served = eu.simulate(scenarios.from_data(serving))
    assert found.tables["steps"]["ready"][0] == pytest.approx(served.scalars["makespan"], rel=1e-6)


def test_a_push_takes_its_bytes_over_the_nics() -> None:
    ready = prepare(scenarios.from_data(FILE))
    fabric = ready.here.fabric
    rate = float(fabric.injection_bandwidth.min()) * SCALE_OUT_EFFICIENCY
    source, target = np.arange(8), np.arange(8, 16)
    size = 16e9
    # eight copies from eight accelerators: each sends one
    direct = push_seconds(fabric, Spray(), source, target[:, None], size)
    assert direct == pytest.approx(size / rate + P2P_LATENCY, rel=1e-6)
    # two copies in four parts each
    half = push_seconds(fabric, Spray(), source, target.reshape(2, 4), size)
    assert half == pytest.approx(2 * size / 8 / rate + P2P_LATENCY, rel=1e-6)
    # a chain sends every byte over the NICs once; the other hops stay in the host
    chain = push_seconds(fabric, Spray(), source, target[:, None], size, chain=True)
    assert size / rate <= chain <= 1.01 * size / rate + P2P_LATENCY
    # one that trains sends all copies
    alone = push_seconds(fabric, Spray(), source[:1], target[:, None], size)
    assert alone == pytest.approx(8 * size / rate + P2P_LATENCY, rel=1e-6)
    assert push_seconds(fabric, Spray(), source, source[:, None], size) == 0.0


def test_result_its_tables_and_the_split(tmp_path: Path) -> None:
    data = with_(mode="asynchronous", staleness=1, steps=6, split=[4, 12], rollout__replicas=8)
    result = eu.simulate(scenarios.from_data(data))
    assert result.kind == "post_training"
    split = result.tables["split"]
    assert split["generating"].to_list() == [4, 8, 12]
    assert split["training"].to_list() == [12, 8, 4]
    assert split.filter(split["generating"] == 8)["step_time"][0] == result.scalars["step_time"]
    stale = result.tables["staleness"]
    assert stale["trajectories"].sum() == 6 * 16
    assert stale["share"].sum() == pytest.approx(1.0)
    steps = result.tables["steps"]
    kept = steps["end"][-1] - steps["end"][0]  # a fifth of six updates is one
    assert result.scalars["trajectories_per_second"] == pytest.approx(5 * 16 / kept)
    assert 0 < result.scalars["rollout_utilisation"] <= 1
    assert 0 < result.scalars["training_utilisation"] <= 1
    for name in ("r.html", "r.json", "r.perfetto.json.gz"):
        assert eu.write(result, tmp_path / name).stat().st_size > 0
    page = (tmp_path / "r.html").read_text()
    assert "Who generates, who trains" in page
    assert "Staleness" in page
    result.save(tmp_path / "saved")
    assert Result.load(tmp_path / "saved").scalars == result.scalars


def test_what_the_longest_context_ends_is_counted() -> None:
    shares = [
        eu.simulate(scenarios.from_data(with_(trajectories__longest=n))).scalars["cut_share"]
        for n in (300, 600, 4096)
    ]
    assert 1 > shares[0] > shares[1] > shares[2] == 0.0


def test_modes_in_order_and_the_same_seed_gives_the_same() -> None:
    times = {}
    for mode in ("synchronous", "one_step_off", "asynchronous"):
        data = with_(mode=mode, steps=6, reward__time="500 ms", push__overhead="100 ms")
        one, again = (eu.simulate(scenarios.from_data(data)) for _ in range(2))
        assert one.scalars == again.scalars
        times[mode] = one.scalars["step_time"]
    assert times["asynchronous"] < times["one_step_off"] < times["synchronous"]


def test_colocated_pools_share_their_accelerators() -> None:
    data = with_(colocated=True, switch="2 s", rollout__replicas=16, update__parallel={"data": 16})
    result = eu.simulate(scenarios.from_data(data))
    assert result.scalars["accelerators"] == 16
    steps = result.tables["steps"]
    waits = (steps["train"] - steps["ready"]).to_numpy()
    assert waits == pytest.approx(np.full(4, 2.0))


def test_agents_with_tools_take_longer() -> None:
    plain = eu.simulate(scenarios.from_data(with_(steps=2)))
    agent = eu.simulate(
        scenarios.from_data(
            with_(
                steps=2, trajectories__turns={"kind": "uniform", "tokens": 4}, trajectories__observation=200,
                trajectories__tool="3 s",
            )
        )
    )  # fmt: skip
    assert agent.scalars["step_time"] > plain.scalars["step_time"] + 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "eventually"}, "jobs\\[0\\].mode"),
        ({"mode": "asynchronous", "colocated": True}, "jobs\\[0\\].colocated.*at the same time"),
        ({"mode": "asynchronous", "oversample": 2}, "jobs\\[0\\].oversample.*staleness"),
        ({"drop_late": True}, "jobs\\[0\\].drop_late"),
        ({"switch": "1 s"}, "jobs\\[0\\].switch.*colocated: true"),
        ({"warm_up": 9}, "jobs\\[0\\].warm_up"),
        ({"split": [3, 16]}, "jobs\\[0\\].split\\[1\\].*16 of 16"),
        (
            {"split": [5], "update__parallel": {"data": 4, "tensor": 2}},
            "jobs\\[0\\].split\\[0\\].*multiple of 2",
        ),
        ({"rollout__replicas": 64}, "needs 72 accelerators"),
        ({"rollout__role": "decode"}, "jobs\\[0\\].rollout.role"),
        ({"rollout__tensor": 16, "rollout__replicas": 1, "colocated": True}, "jobs\\[0\\].rollout.tensor"),
        ({"rollout__tensor": 7, "rollout__replicas": 1}, "jobs\\[0\\].rollout"),
        ({"trajectories__response": "long"}, "jobs\\[0\\].trajectories.response"),
        ({"trajectories__response": {"kind": "pareto"}}, "pareto"),
        (
            {"trajectories__longest": 100},
            "jobs\\[0\\].trajectories.longest.*half of .* more than 100",
        ),
        ({"trajectories__prompt": {"kind": "lognormal", "p50": 100}}, "jobs\\[0\\].trajectories.prompt"),
        ({"update__parallel": {"tensor": 3}}, "jobs\\[0\\].update.parallel.tensor"),
        ({"update__software": "megatron-1999"}, "jobs\\[0\\].update.software"),
        ({"model": "llama9"}, "jobs\\[0\\].model"),
        ({"prompts": 0}, "jobs\\[0\\].prompts"),
        ({"push__how": "mail"}, "jobs\\[0\\].push.how"),
        (
            {"rollout__engine": {"blocks": 20}, "trajectories__response": 1500},
            "does not fit the rollout pool",
        ),
    ],
)
def test_bad_input_names_its_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        eu.simulate(scenarios.from_data(with_(**changes)))
    assert "\n" not in str(caught.value)


def test_files_faults_and_the_command_line(tmp_path: Path) -> None:
    data = with_(steps=2)
    path = tmp_path / "rl.yaml"
    path.write_text(scenarios.yaml_text(data))
    done = CliRunner().invoke(app, ["simulate", str(path)])
    assert done.exit_code == 0, done.output
    assert "Rollout pool at work" in done.stdout
    assert "updates behind" in done.stdout
    found = json.loads(CliRunner().invoke(app, ["simulate", str(path), "--json"]).stdout)
    assert found["tables"]["staleness"]
    s = scenarios.load(path)
    assert scenarios.loads(scenarios.dump(s)) == s
    path.write_text(scenarios.yaml_text({**data, "faults": [{"host": 0, "speed": 0.5}]}))
    done = CliRunner().invoke(app, ["simulate", str(path)])
    assert done.exit_code == 2
    assert "`faults`" in done.stderr
    path.write_text(scenarios.yaml_text({**data, "run": {"compute": "analytic", "network": "fluid"}}))
    assert CliRunner().invoke(app, ["validate", str(path)]).exit_code == 2
