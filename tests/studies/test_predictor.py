"""The shortened steps of `reproduce training` against steps executed whole; segments of racks."""

from __future__ import annotations

import pytest

from euston.assemble import device
from euston.catalog import accelerator
from euston.cluster import Parallel, place
from euston.models import transformer
from euston.studies._facts import machines
from euston.studies._predictor import Predictor, segment
from euston.training import TrainingJob, run_iteration, software

A100 = accelerator("a100-sxm-80gb")
MACHINES = machines({"framework": "Megatron-LM", "source": "2205.05198", "accelerator": "A100"})


@pytest.mark.parametrize(
    ("layout", "batch", "schedule"),
    [
        (Parallel(tensor=8, pipeline=4, data=2), 80, "1f1b"),
        (Parallel(tensor=8, sequence=True, pipeline=4, virtual=2, data=1), 39, "interleaved"),
        (Parallel(data=16, sharding="zero3"), 16 * 12, "1f1b"),
        (Parallel(tensor=8, pipeline=4, data=1), 8, "1f1b"),
    ],
)
def test_a_long_step_from_two_short_ones(layout: Parallel, batch: int, schedule: str) -> None:
    """Oracle: the same step with all its micro-batches."""
    model = transformer("gpt-22b")
    job = TrainingJob(
        model, layout, global_batch=batch, sequence=2048, precision="fp16", recompute="full",
        schedule=schedule, software=software("megatron-2022"),  # type: ignore[arg-type]
    )  # fmt: skip
    predictor = Predictor()
    found = predictor.predict(job, A100, MACHINES)
    site = predictor._site(A100, layout.world, MACHINES)
    whole = run_iteration([(job, place(layout, site))], site, [device(A100, job)])
    assert found.seconds == pytest.approx(whole.jobs[0].step_time, rel=1e-6)
    low, high = found.band
    assert 0.8 * high < low < high
    assert found is predictor.predict(job, A100, MACHINES)


@pytest.mark.parametrize(("hosts", "most", "part"), [(64, 18, 16), (16, 18, 16), (2, 18, 2), (128, 18, 16)])
def test_segments_are_equal_parts_of_racks(hosts: int, most: int, part: int) -> None:
    assert segment(hosts, most) == part
