"""The strategies that cut a chain into segments: everything, every, at, sqrt; and nothing."""

from dataclasses import replace
from math import isqrt

import pytest

from thriftgrad.errors import ConfigError
from thriftgrad.memory.schedule import Action, Kind, Schedule
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage, homogeneous
from thriftgrad.memory.strategies import (
    at,
    every,
    everything,
    mixed,
    nothing,
    revolve,
    sqrt,
    two_level,
)

BULKY = Stage(output=1, cotangent=1, tape=1)  # whose tape holds more than the states beside it


def kept(schedule: Schedule) -> list[int]:
    """Return the states that are kept on the way forward."""
    actions = schedule.actions
    forward = actions[: actions.index(next(a for a in actions if a.kind is Kind.LOSS))]
    return [action.index for action in forward if action.kind is Kind.KEEP]


@pytest.mark.parametrize("length", [1, 2, 10])
def test_everything_runs_each_stage_once(length: int) -> None:
    chain = homogeneous(length)
    simulation = simulate(everything()(chain), chain)
    assert simulation.forwards.sum() == 0
    assert simulation.tapes.tolist() == [1] * length


def test_nothing_keeps_the_input_alone() -> None:
    chain = homogeneous(8)
    simulation = simulate(nothing()(chain), chain)
    assert simulation.forwards.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert simulation.most_states == 1


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6]), (4, [4]), (7, []), (9, [])],
)
def test_every_keeps_every_nth_output(n: int, expected: list[int]) -> None:
    # x_0 is kept too where stages run again; the last kept state starts the part that is taped
    # straight away, and is let go when its tape is there.
    schedule = every(n)(homogeneous(7, BULKY))
    assert kept(schedule) == [0, *expected][:-1]
    first_taped = next(a.index for a in schedule if a.kind is Kind.TAPE)
    assert first_taped == [0, *expected][-1]


def test_each_stage_before_the_last_segment_runs_twice() -> None:
    chain = homogeneous(10)
    assert simulate(every(4)(chain), chain).runs.tolist() == [2] * 8 + [1] * 2
    assert simulate(every(5)(chain), chain).runs.tolist() == [2] * 5 + [1] * 5
    assert simulate(at(2, 5)(chain), chain).runs.tolist() == [2] * 6 + [1] * 4
    assert simulate(sqrt()(chain), chain).runs.tolist() == [2] * 7 + [1] * 3


LINEAR = Stage(
    output=40_000, cotangent=40_000, tape=700, holds_input=True, holds_output=False, gradient=5
)
SIGMOID = Stage(output=40_000, cotangent=40_000, tape=600, backward_extra=40_000)


@pytest.mark.parametrize("scale", [1, 10])
def test_a_segment_whose_tapes_are_kept_anyway_runs_once(scale: int) -> None:
    rows = [replace(each, output=each.output // scale) for each in (LINEAR, SIGMOID)]
    chain = Chain(stages=(*rows * 4, rows[0]))
    plain = simulate(everything()(chain), chain)
    for strategy in (every(1), every(2), at(1, 3), at(1, 2, 3)):
        simulation = simulate(strategy(chain), chain)
        assert simulation.runs.tolist() == [1] * 9
        assert simulation.peak <= plain.peak
    assert simulate(every(4)(chain), chain).runs.tolist() == [2] * 8 + [1]
    # Here the cuts go between a linear stage and the sigmoid of it, and a tape lies between.
    assert simulate(every(3)(chain), chain).runs.tolist() == [2] * 6 + [1] * 3
    assert simulate(at(1, 5)(chain), chain).runs.tolist() == [1, 1, 2, 2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("nbytes", [1, 500, 3_000, 10**6])
def test_a_segment_whose_tapes_hold_a_state_more_runs_twice(nbytes: int) -> None:
    chain = homogeneous(9, Stage(output=nbytes, cotangent=nbytes))
    assert simulate(every(2)(chain), chain).runs.tolist() == [2] * 8 + [1]
    assert simulate(every(3)(chain), chain).runs.tolist() == [2] * 6 + [1] * 3


def test_where_a_cut_is_of_no_use_two_stages_count_as_one() -> None:
    pairs = Chain(stages=(LINEAR, SIGMOID) * 16)
    single = homogeneous(16)
    for strategy in (sqrt(), nothing(), revolve(), revolve(3), mixed(4), two_level(1, 3)):
        runs = simulate(strategy(pairs), pairs).runs
        expected = simulate(strategy(single), single).runs.tolist()
        assert runs[::2].tolist() == expected
        # What a group is run for untaped is its output alone, so that both its stages run.
        assert runs[1::2].tolist() == expected


def test_at_counts_stages_as_a_list_does() -> None:
    chain = homogeneous(10)
    actions = at(2, 5)(chain).actions
    assert kept(at(2, 5)(chain)) == [0, 3]
    assert at(5, 2, 2)(chain).actions == at(-8, -5)(chain).actions == actions
    # Its output goes straight into the loss, so that there is nothing left to keep.
    assert at(2, 5, -1)(chain).actions == actions
    assert simulate(at(9)(chain), chain).runs.tolist() == [1] * 10


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 50, 99, 100, 101])
def test_sqrt_makes_segments_that_are_equal(length: int) -> None:
    schedule = sqrt()(homogeneous(length, BULKY))
    starts = [*kept(schedule), next(a.index for a in schedule if a.kind is Kind.TAPE)]
    sizes = {b - a for a, b in zip(starts, [*starts[1:], length], strict=True)}
    assert len(starts) == isqrt(length - 1) + 1
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= isqrt(length - 1) + 1


def test_the_peak_of_sqrt_grows_with_the_root() -> None:
    stage = Stage(output=1, cotangent=1)
    for length in (100, 400, 2500, 10_000):
        chain = homogeneous(length, stage)
        assert simulate(sqrt()(chain), chain).peak <= 2 * isqrt(length) + 2


def test_names_tell_the_strategy() -> None:
    chain = homogeneous(9)
    strategies = [everything(), nothing(), every(2), at(2, -1), sqrt(), revolve(3), revolve()]
    assert [strategy(chain).strategy for strategy in strategies] == [
        "all",
        "none",
        "every(2)",
        "at(2, -1)",
        "sqrt",
        "revolve(3)",
        "revolve(3)",
    ]


@pytest.mark.parametrize("n", [0, -1, 2.0, "2", True, None])
def test_every_refuses_what_is_no_distance(n: object) -> None:
    with pytest.raises(ConfigError, match=r"every: n = .*; expected a whole number of at least 1"):
        every(n)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((), r"at\(\): expected the index of at least one stage"),
        ((1.0,), r"at\(...\): 1.0 is not the index of a stage; expected an int"),
        ((True,), "True is not the index"),
        (([2, 5],), r"\[2, 5\] is not the index"),
    ],
)
def test_at_refuses_what_is_no_index(indices: tuple[object, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        at(*indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [3, -4])
def test_at_refuses_stages_that_the_chain_does_not_have(index: int) -> None:
    strategy = at(0, index)
    with pytest.raises(
        ConfigError, match=r": the chain has 3 stages; expected indices from -3 to 2"
    ):
        strategy(homogeneous(3))
    assert Action(Kind.LOSS, 5) in strategy(homogeneous(5)).actions
