"""Placement of layers: Llama 3's and Korthikanti's published placements, and evenness as a property."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from euston.errors import ConfigError
from euston.training.stages import place


def test_llama3_405b_has_one_layer_fewer_on_each_end() -> None:
    """126 layers + embedding + head = 128 slots on 16 stages (arXiv:2407.21783, section 3.3.2)."""
    stages = place(126, 16)
    assert [stages.stage_layers(r) for r in range(16)] == [7, *[8] * 14, 7]
    assert stages.describe() == "126 layers on 16 stages: 7 + embedding, 14 x 8, 7 + head"


@pytest.mark.parametrize("virtual", [2, 4, 8])
def test_llama3_405b_interleaved(virtual: int) -> None:
    stages = place(126, 16, virtual)
    chunk = 8 // virtual
    assert stages.layers_of(0, 0) == chunk - 1
    assert stages.layers_of(15, virtual - 1) == chunk - 1
    assert sum(sum(stage) for stage in stages.layers) == 126
    assert {n for r in range(1, 15) for n in stages.layers[r]} == {chunk}
    assert stages.has_embedding(0, 0) and not stages.has_embedding(0, 1)
    assert stages.has_head(15, virtual - 1) and not stages.has_head(15, 0) and stages.has_head(15)


@pytest.mark.parametrize(
    ("layers", "pipeline", "virtual"), [(96, 8, 3), (105, 35, 3), (128, 64, 1), (48, 1, 1)]
)
def test_layers_that_divide_take_no_slots(layers: int, pipeline: int, virtual: int) -> None:
    """The four models of Korthikanti et al. (arXiv:2205.05198, Table 3)."""
    stages = place(layers, pipeline, virtual)
    assert stages.equal and not stages.slots
    assert stages.layers_of(0, 0) == layers // (pipeline * virtual)


def test_slots_can_be_insisted_on() -> None:
    assert place(6, 2, slots=True).layers == ((3,), (3,))
    assert place(8, 4, slots=True).layers == ((1,), (3,), (3,), (1,))
    assert place(7, 2, slots=False).layers == ((4,), (3,))


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 6), st.sampled_from(["auto", True, False]))
@settings(max_examples=300, deadline=None)
def test_even_complete_and_in_order(layers: int, pipeline: int, virtual: int, slots: bool) -> None:
    assume(pipeline * virtual <= layers)
    stages = place(layers, pipeline, virtual, slots=slots)  # type: ignore[arg-type]
    held = stages.array()
    assert held.shape == (pipeline, virtual) and held.min() >= 0 and held.sum() == layers
    counted = held.copy()
    if stages.slots:
        counted[0, 0] += 1
        counted[-1, -1] += 1
    assert counted.max() - counted.min() <= 1
    per_stage = counted.sum(axis=1)
    assert per_stage.max() - per_stage.min() <= 1
    # first_layer walks the model in virtual-stage order without gaps
    expected = 0
    for chunk in range(virtual):
        for stage in range(pipeline):
            assert stages.first_layer(stage, chunk) == expected
            expected += stages.layers_of(stage, chunk)


def test_explicit_list_is_in_model_order() -> None:
    stages = place(10, 2, 2, explicit=[1, 4, 2, 3])
    assert stages.layers == ((1, 2), (4, 3))
    assert [stages.first_layer(s, c) for c in (0, 1) for s in (0, 1)] == [0, 1, 5, 7]
    assert stages.table()["layers"].to_list() == [1, 2, 4, 3]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (4, 8),
            {},
            "`jobs[0].parallel.pipeline`: 8 stages are more than "
            + "4 layers, embedding and head can fill; at most 6",
        ),
        (
            (126, 16, 9),
            {},
            "`jobs[0].parallel.virtual`: 16 stages x 9 chunks = 144 are more than "
            + "126 layers, embedding and head can fill; at most 8 chunks",
        ),
        (
            (10, 2),
            {"explicit": [3, 3, 4]},
            "`jobs[0].stages`: 3 entries; needs 2, one per stage and chunk (2 x 1)",
        ),
        ((10, 2), {"explicit": [3, 3]}, "`jobs[0].stages`: the entries sum to 6; the model has 10 layers"),
        ((6, 3), {"explicit": [3, 0, 3]}, "`jobs[0].stages[1]`: 0 layers; at least 1"),
    ],
)
def test_refusals(arguments: tuple[int, ...], options: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        place(*arguments, where="jobs[0].parallel", **options)  # type: ignore[arg-type]
    assert str(error.value) == message
