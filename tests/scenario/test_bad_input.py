"""Every bad scenario is refused with one clear sentence: the exact messages, with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from euston import scenario as sc
from euston.errors import BadInput, ConfigError
from euston.runs import runner
from euston.scenario.jobs import JOB_KINDS

GOOD = """\
version: 1
sites:
  - name: main
    accelerator: h100-sxm
    hosts: 16
    fabric: {kind: clos, nic: 400 Gb/s}
jobs:
  - name: pretrain
    kind: training
    model: llama3-70b
    parallel: {tensor: 8, pipeline: 4, data: 4}
    batch: {global: 64, micro: 1, sequence: 8192}
"""


def first_problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        sc.loads(text, "s.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_good_one_is_good() -> None:
    assert sc.loads(GOOD).jobs[0].parallel.world == 128


JOB_KEY = "    batch:"
CASES = [
    # layouts
    (
        "tensor: 8",
        "tensor: 12",
        "11:16: `jobs[0].parallel.tensor`: 12 does not divide 64 heads; nearest 8 or 16",
    ),
    ("pipeline: 4", "pipeline: 90", "11:27: `jobs[0].parallel.pipeline`: 90 stages but only 80 layers"),
    (
        "pipeline: 4",
        "pipeline: 4, virtual: 40",
        "11:40: `jobs[0].parallel.virtual`: 4 stages x 40 = 160 chunks, but only 80 layers, "
        "embedding and head to fill them; at most 20",
    ),
    (
        "data: 4",
        "data: 8",
        "11:5: `jobs[0].parallel`: tensor 8 x pipeline 4 x data 8 needs 256 accelerators; "
        "site 'main' has 128",
    ),
    (
        "tensor: 8, pipeline: 4, data: 4",
        "tensor: 4, pipeline: 3",
        "11:5: `jobs[0].parallel`: 12 ranks do not divide into hosts of 8 accelerators; nearest 8",
    ),
    (
        "global: 64",
        "global: 65",
        "12:13: `jobs[0].batch.global`: 65 is not a multiple of data*micro = 4; nearest 64 or 68",
    ),
    (
        "data: 4",
        "data: 4, expert: 8",
        "11:49: `jobs[0].parallel.expert`: 8, but the model has no experts; set 1",
    ),
    (
        JOB_KEY,
        "    stages: [20, 20]\n    batch:",
        "12:5: `jobs[0].stages`: 2 entries; needs 4, one per stage and chunk (4 x 1)",
    ),
    (
        JOB_KEY,
        "    placement: {first_host: 3}\n    batch:",
        "12:5: `jobs[0].placement`: needs hosts 3 to 18; site 'main' has hosts 0 to 15",
    ),
    # quantities
    ("400 Gb/s", "400", '6:26: `sites[0].fabric.nic`: 400 has no unit; write e.g. "400 Gb/s"'),
    (
        "400 Gb/s",
        "400 Gbs",
        "6:26: `sites[0].fabric.nic`: unknown bandwidth unit 'Gbs' in '400 Gbs'; did you mean 'Gb/s'?",
    ),
    (
        "400 Gb/s",
        "400 us",
        "6:26: `sites[0].fabric.nic`: '400 us' is a duration, not a bandwidth; write for example '400 Gb/s'",
    ),
    (
        "400 Gb/s",
        "-400 Gb/s",
        "6:26: `sites[0].fabric.nic`: '-400 Gb/s' is negative; a bandwidth must be above 0",
    ),
    ("400 Gb/s", "0 Gb/s", "6:26: `sites[0].fabric.nic`: '0 Gb/s' is zero; a bandwidth must be above 0"),
    (
        "400 Gb/s",
        "nan Gb/s",
        "6:26: `sites[0].fabric.nic`: 'nan Gb/s' is not a finite bandwidth; write for example '400 Gb/s'",
    ),
    (
        "400 Gb/s",
        ".nan",
        "6:26: `sites[0].fabric.nic`: nan is not a finite bandwidth; write for example '400 Gb/s'",
    ),
    (
        "kind: clos, nic: 400 Gb/s",
        "kind: clos",
        '6:5: `sites[0].fabric.nic`: is missing; write e.g. "400 Gb/s"',
    ),
    # numbers
    ("tensor: 8", "tensor: 0", "11:16: `jobs[0].parallel.tensor`: 0 is too small; at least 1"),
    ("tensor: 8", "tensor: -8", "11:16: `jobs[0].parallel.tensor`: -8 is too small; at least 1"),
    ("tensor: 8", "tensor: 8.5", "11:16: `jobs[0].parallel.tensor`: 8.5 is not a whole number"),
    ("tensor: 8", "tensor: true", "11:16: `jobs[0].parallel.tensor`: True is not a whole number"),
    ("hosts: 16", "hosts: .inf", "5:5: `sites[0].hosts`: inf is not a whole number"),
    # names
    ("tensor: 8", "tensr: 8", "11:16: `jobs[0].parallel.tensr`: unknown key; did you mean 'tensor'?"),
    (
        "tensor: 8",
        "tensor: 8, tp: 8",
        "11:27: `jobs[0].parallel.tp`: means 'tensor', which is given too; keep one of them",
    ),
    ("jobs:", "jbos:", "7:1: `jbos`: unknown key; did you mean 'jobs'?"),
    ("h100-sxm", "h10", "4:5: `sites[0].accelerator`: unknown accelerator 'h10'; did you mean 'h100-sxm'?"),
    (
        "llama3-70b",
        "llama3-70",
        "10:5: `jobs[0].model`: unknown model 'llama3-70'; did you mean 'llama3-70b'?",
    ),
    (
        "kind: clos, nic: 400 Gb/s",
        "preset: llama3-roce-24",
        "6:14: `sites[0].fabric.preset`: unknown fabric 'llama3-roce-24'; did you mean 'llama3-roce-24k'?",
    ),
    (
        "kind: clos",
        "kind: tours",
        "6:14: `sites[0].fabric.kind`: unknown fabric kind 'tours'; did you mean 'torus'?",
    ),
    (
        "kind: training",
        "kind: trainin",
        "9:5: `jobs[0].kind`: unknown job kind 'trainin'; did you mean 'training'?",
    ),
    ("    kind: training\n", "", f"8:5: `jobs[0].kind`: is missing; the kinds are {', '.join(JOB_KINDS)}"),
    (
        JOB_KEY,
        "    software: megatron-2020\n    batch:",
        "12:5: `jobs[0].software`: unknown software profile 'megatron-2020'; did you mean 'megatron-2022'?",
    ),
    (
        JOB_KEY,
        "    overrides: {p2p_overlp: true}\n    batch:",
        "12:17: `jobs[0].overrides.p2p_overlp`: unknown software setting 'p2p_overlp'; "
        "did you mean 'p2p_overlap'?",
    ),
    (
        JOB_KEY,
        "    overrides: {p2p_overlap: maybe}\n    batch:",
        "12:17: `jobs[0].overrides.p2p_overlap`: 'maybe' must be true or false",
    ),
    (
        JOB_KEY,
        "    software: mcore-2024\n    overrides: {expert_node_limit: true}\n    batch:",
        "13:17: `jobs[0].overrides.expert_node_limit`: True must be a whole number",
    ),
    (
        JOB_KEY,
        "    precision: bf8\n    batch:",
        "12:5: `jobs[0].precision`: unknown precision 'bf8'; did you mean 'fp8'?",
    ),
    (
        JOB_KEY,
        "    placement: {site: mian}\n    batch:",
        "12:17: `jobs[0].placement.site`: unknown site 'mian'; did you mean 'main'?",
    ),
    (
        JOB_KEY,
        "    assumptions: [{field: batch.micr, why: x}]\n    batch:",
        "12:20: `jobs[0].assumptions[0].field`: unknown key 'batch.micr'; did you mean 'micro'?",
    ),
    (
        JOB_KEY,
        "    reference: [{quantity: step_time, value: 3, source: x}]\n    batch:",
        '12:39: `jobs[0].reference[0].value`: 3 has no unit; write e.g. "3 s"',
    ),
    (
        JOB_KEY,
        "    reference: [{quantity: mfuu, value: 3, source: x}]\n    batch:",
        "12:18: `jobs[0].reference[0].quantity`: unknown quantity 'mfuu'; did you mean 'mfu'?",
    ),
    # sections
    (
        "jobs:",
        "policies: {balancing: spary}\njobs:",
        "7:12: `policies.balancing`: unknown balancing policy 'spary'; did you mean 'spray'?",
    ),
    (
        "jobs:",
        "run: {network: fluidd}\njobs:",
        "7:7: `run.network`: unknown network 'fluidd'; did you mean 'fluid'?",
    ),
    ("jobs:", "run: [1]\njobs:", "7:1: `run`: [1] is not a section of keys and values"),
    (
        "jobs:",
        "faults: [{link: a}]\njobs:",
        "7:10: `faults[0]`: a link needs `factor` (0 is failed, 0.5 is half its capacity)",
    ),
    (
        "jobs:",
        "faults: [{host: 16, speed: 0.9}]\njobs:",
        "7:11: `faults[0].host`: 16 does not exist; site 'main' has hosts 0 to 15",
    ),
    (
        "jobs:",
        "faults: [{link: x, factor: 0.5, at: 3 s, until: 2 s}]\njobs:",
        "7:42: `faults[0].until`: must be later than `at`",
    ),
    ("version: 1", "version: 2", "1:1: `version`: 2 is not a version this euston reads; it reads version 1"),
    ("version: 1\n", "", "1:1: `version`: is missing; write `version: 1`"),
    # models
    (
        "model: llama3-70b",
        "model: {hf_config: nope.json}",
        "10:13: `jobs[0].model.hf_config`: nope.json: No such file or directory",
    ),
    (
        "model: llama3-70b",
        "model: {layers: 3, hidden: 10, heads: 3, ffn: 4, vocab: 5}",
        "10:5: `jobs[0].model`: 3 heads do not divide hidden 10; give `head_dim`",
    ),
    # YAML
    ("hosts: 16", " hosts: 16", "5:11: unreadable YAML: mapping values are not allowed here"),
    ("400 Gb/s}", "400 Gb/s", "7:5: unreadable YAML: expected ',' or '}', but got ':'"),
    ("hosts: 16", "hosts: 16\n    hosts: 17", "6:5: `sites[0].hosts`: is given twice, first in line 5"),
    (
        "hosts: 16",
        "hosts: !!python/object/apply:os.system ['touch pwned']",
        "5:12: the tag '!!python/object/apply:os.system' is refused; a scenario holds plain values only",
    ),
    ("hosts: 16", "hosts: !new 16", "5:12: the tag '!new' is refused; a scenario holds plain values only"),
    ("hosts: 16", "hosts: &a [*a]", "5:12: an alias refers to the section it stands in"),
    ("hosts: 16", "7: 16", "5:5: `sites[0]`: 7 is not a key; keys are words"),
]


@pytest.mark.parametrize(("old", "new", "message"), CASES, ids=[new.strip()[:40] for _, new, _ in CASES])
def test_exact_message(
    old: str, new: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert old in GOOD
    assert first_problem(GOOD.replace(old, new, 1)) == f"s.yaml:{message}"
    assert list(tmp_path.iterdir()) == []  # no tag ran anything


def test_whole_files(tmp_path: Path) -> None:
    assert first_problem("") == "s.yaml: is empty; a scenario begins with `version: 1`"
    assert first_problem("- 1") == "s.yaml:1:1: holds no keys; a scenario begins with `version: 1`"
    assert first_problem("[" * 3000).startswith("s.yaml: unreadable YAML: nested deeper than 100 levels")
    bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{after}: &{after} [{', '.join(['*' + before] * 10)}]\n"
        for before, after in zip("abcdefg", "bcdefgh", strict=True)
    )
    assert "too many aliases" in first_problem(bomb)
    for name, content, message in (
        ("missing.yaml", None, "no such file"),
        ("latin.yaml", b"name: \xe9", "is not UTF-8 text (byte 6)"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            sc.load(path)
        assert str(caught.value) == f"{path}: {message}"
    with pytest.raises(ConfigError) as caught:
        sc.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder; give a scenario file (.yaml)"


def test_every_problem_is_listed_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("hosts: 16", "hosts: none")
        .replace("tensor: 8", "tensr: 8")
        .replace("micro: 1", "micro: 0")
    )
    with pytest.raises(sc.ScenarioError) as caught:
        sc.loads(text, "s.yaml")
    assert caught.value.problems == (
        "s.yaml:5:5: `sites[0].hosts`: 'none' is not a whole number",
        "s.yaml:11:16: `jobs[0].parallel.tensr`: unknown key; did you mean 'tensor'?",
        "s.yaml:12:25: `jobs[0].batch.micro`: 0 is too small; at least 1",
    )


def test_jobs_that_collide() -> None:
    second = GOOD[GOOD.index("  - name: pretrain") :].replace("pretrain", "other")
    both = GOOD.replace("data: 4", "data: 2") + second.replace("data: 4", "data: 2").replace(
        "    batch:", "    placement: {first_host: 7}\n    batch:"
    )
    message = "s.yaml:17:5: `jobs[1].placement`: host 7 of site 'main' is used by job 'pretrain' already"
    assert first_problem(both) == message
    twice = both.replace("other", "pretrain")
    assert first_problem(twice) == "s.yaml:13:5: `jobs[1].name`: 'pretrain' is the name of jobs[0] already"


def test_from_python_data_without_a_place() -> None:
    site = {
        "name": "m",
        "accelerator": "h100-sxm",
        "hosts": 1,
        "fabric": {"kind": "clos", "nic": float("inf")},
    }
    job = {"name": "a", "kind": "training", "model": "llama3-8b", "batch": {"global": 8, "sequence": 4096}}
    with pytest.raises(BadInput) as caught:
        sc.from_data({"sites": [site], "jobs": [job]})
    assert str(caught.value) == (
        "`sites[0].fabric.nic`: inf is not a finite bandwidth; write for example '400 Gb/s'"
    )


def test_errors_of_the_rooms_below_get_their_place() -> None:
    scenario = sc.loads(GOOD, "s.yaml")
    error = sc.with_place(scenario, ConfigError("`jobs[0].parallel.pipeline`: does not fit"))
    assert isinstance(error, ConfigError)
    assert str(error) == "s.yaml:11:27: `jobs[0].parallel.pipeline`: does not fit"
    assert str(sc.with_place(scenario, ConfigError("something"))) == "s.yaml: something"


@pytest.mark.parametrize("compute", ["des", "analytic"])
def test_a_precision_that_the_accelerator_lacks_is_named(compute: str) -> None:
    """Oracle: the data sheets: FP4 begins with Blackwell, FP8 with Hopper."""
    for accelerator, fits in (("a100-sxm-80gb", ()), ("h100-sxm", ("fp8",)), ("b200-sxm", ("fp8", "nvfp4"))):
        for precision in ("fp8", "nvfp4"):
            data = {
                "version": 1,
                "sites": [
                    {
                        "name": "main",
                        "accelerator": accelerator,
                        "hosts": 1,
                        "fabric": {"preset": "generic-400g-rail"},
                    }
                ],
                "jobs": [
                    {
                        "name": "j",
                        "kind": "training",
                        "model": "llama3-8b",
                        "precision": precision,
                        "parallel": {"tensor": 8},
                        "batch": {"global": 8, "micro": 1, "sequence": 512},
                    }
                ],
                "run": {"compute": compute, "network": "none"},
            }
            scenario = sc.from_data(data)
            if precision in fits:
                runner(scenario).prepare(scenario)
                continue
            with pytest.raises(BadInput, match=rf"`jobs\[0\].precision`: {accelerator} has no {precision}"):
                runner(scenario).prepare(scenario)
