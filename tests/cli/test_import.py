"""`euston import`: files written, JSON, warnings, exit codes; what is written is what `simulate` takes."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from euston.cli._app import app

FLAGS = (
    "--num-layers 4 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --vocab-size 32000 "
    "--bf16 --position-embedding-type rope --micro-batch-size 1 --global-batch-size 16 "
    "--tensor-model-parallel-size 2"
)


def call(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_arguments_to_a_file_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "s.yaml"
    done = call("import", "megatron", FLAGS, "-o", out, "--accelerators", 8, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["scenario"]["jobs"][0]["parallel"]["data"] == 4
    assert found["warnings"]
    run = call("simulate", out, "--json")
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["scalars"]["step_time"] > 0


def test_unquoted_arguments_and_stdout() -> None:
    done = call("import", "megatron", *FLAGS.split(), "--accelerator", "a100-sxm-80gb")
    assert done.exit_code == 0, done.output
    assert "accelerator: a100-sxm-80gb" in done.stdout
    assert "warning:" in done.stderr


def test_bad_input_is_exit_2_and_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "s.yaml"
    for arguments in (
        ("megatron", "--num-layers x"),
        ("megatron", tmp_path / "none.sh"),
        ("torchtitan", tmp_path / "none.toml"),
        ("megatron", FLAGS, "--accelerators", 7),
        ("megatron", FLAGS, "--accelerator", "h1000"),
        ("megatron", FLAGS, "--fabric", "nothing"),
    ):
        done = call("import", *arguments, "-o", out)
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("error:")
        assert not out.exists()
