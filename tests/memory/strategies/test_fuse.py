"""Groups of stages: they cost no less than what they stand for, and little more."""

import itertools

import pytest
from hypothesis import given, settings
from memory.chains import chains

from thriftgrad.memory.schedule import tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage, homogeneous
from thriftgrad.memory.strategies import everything, nothing, sqrt
from thriftgrad.memory.strategies.fuse import even_cuts, fuse, useful_cuts

LINEAR = Stage(output=8, cotangent=8, holds_input=True, holds_output=False, gradient=4, released=4)
TANH = Stage(output=8, cotangent=8)


@settings(deadline=None, max_examples=100)
@given(chain=chains())
def test_written_out_a_schedule_runs_as_long_and_every_stage_as_often(chain: Chain) -> None:
    fused = fuse(chain, useful_cuts(chain))
    for strategy in (everything(), nothing(), sqrt()):
        coarse = strategy(fused.chain)
        planned = simulate(coarse, fused.chain)
        real = simulate(tidy(fused.expand(coarse), chain), chain)
        assert real.seconds <= planned.seconds  # a plain run at the end of a group may be needless
        for g, (first, end) in enumerate(zip(fused.cuts, fused.cuts[1:], strict=False)):
            assert (real.tapes[first:end] == planned.tapes[g]).all()


@pytest.mark.parametrize("update", ["after backward", "during backward"])
def test_of_usual_layers_a_group_costs_exactly_what_its_stages_do(update) -> None:
    chain = Chain(stages=(LINEAR, TANH) * 6, update=update, fixed={"parameters": 24})
    fused = fuse(chain, useful_cuts(chain))
    assert fused.cuts == tuple(range(0, 13, 2))
    for strategy in (everything(), nothing(), sqrt()):
        coarse = strategy(fused.chain)
        real = simulate(tidy(fused.expand(coarse), chain), chain)
        assert real.peak == simulate(coarse, fused.chain).peak


def test_a_view_is_planned_with_the_stage_before_it() -> None:
    view = Stage(output=0, cotangent=8, view=True)
    assert useful_cuts(Chain(stages=(TANH, view, TANH, view))) == [0, 2, 4]
    assert useful_cuts(Chain(stages=(view, view, TANH, TANH))) == [0, 3, 4]


def test_a_cut_is_kept_where_its_state_is_smaller_than_what_is_beside_it() -> None:
    small = Stage(output=1, cotangent=1, holds_input=True, holds_output=False)
    assert useful_cuts(Chain(stages=(LINEAR, TANH, small, TANH))) == [0, 2, 3, 4]


def test_even_groups_of_equal_stages_are_equal() -> None:
    chain = homogeneous(10_000)
    cuts = even_cuts(chain, 320)
    assert {end - start for start, end in itertools.pairwise(cuts)} == {32, 10_000 % 32}
    assert len(set(fuse(chain, cuts).chain.stages)) <= 3
