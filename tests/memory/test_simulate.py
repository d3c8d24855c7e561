"""The simulator, against a slow one that looks at everything anew after every action."""

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory.chains import chains, random_work, strategies

from thriftgrad.errors import ScheduleError
from thriftgrad.memory.schedule import Action, Kind, tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain, Stage, homogeneous


class InvalidError(Exception):
    """What the slow simulator refuses with."""


def demand(condition: object) -> None:
    if not condition:
        raise InvalidError


def slow_simulate(actions, chain):
    """Return the bytes during and after each action, the seconds, and the counts of runs.

    What is held is a set of references, {name: (array, ...)}; bytes are those of the distinct arrays
    that any reference leads to. The rules are those of the docstrings of `Kind` and `Stage`.
    """
    length, serial = len(chain), iter(range(10**9))
    batch = ("batch", next(serial), chain.input)
    held, disk, runs = {("x", 0): (batch,)}, {}, Counter()
    seconds, lossed, done, during, after = 0.0, False, set(), [], []

    def new(size):
        return ("array", next(serial), size)

    def size(world):
        return sum(array[2] for array in {array for arrays in world.values() for array in arrays})

    def state(i):
        """The array of x_i: its own reference, or else the tape's."""
        if ("x", i) in held:
            return held["x", i][0]
        demand(i > 0 and ("t", i - 1) in held and chain.stages[i - 1].holds_output)
        return held["t", i - 1][-1]

    for action in actions:
        kind, i = action.kind, action.index
        before, gives, loses, extra, phases = size(held), {}, [], 0, []
        stage = chain.stages[i] if 0 <= i < length else None
        if kind in (Kind.ADVANCE, Kind.KEEP, Kind.TAPE):
            demand(stage)
            demand(("x", i + 1) not in held)
            x = state(i)
            y = x if stage.view else new(stage.output)
            gives["x", i + 1] = (y,)
            runs[kind is Kind.TAPE, i] += 1
            if kind is Kind.TAPE:
                demand(("t", i) not in held)
                kept = [x] * stage.holds_input + [y] * stage.holds_output
                gives["t", i] = (new(stage.tape), *kept)
                seconds, extra = seconds + stage.tape_seconds, stage.tape_extra
            else:
                seconds, extra = seconds + stage.forward_seconds, stage.forward_extra
            if kind is Kind.ADVANCE:
                loses = [("x", i)]
        elif kind is Kind.LOSS:
            demand(i == length and not lossed and state(i))
            lossed = True
            gives["d", i] = (new(chain.cotangent(i)),)
            seconds, extra = seconds + chain.loss_seconds, chain.loss_extra
        elif kind is Kind.BACKWARD:
            demand(stage and ("d", i + 1) in held and ("t", i) in held)
            demand(not stage.needs_input or state(i))
            done.add(i)
            gives = {("d", i): (new(chain.cotangent(i)),), ("g", i): (new(stage.gradient),)}
            loses = [("d", i + 1), ("t", i)]
            seconds, extra = seconds + stage.backward_seconds, stage.backward_extra
        elif kind is Kind.DROP:
            demand(("x", i) in held)
            loses = [("x", i)]
        elif kind is Kind.DROP_TAPE:
            demand(("t", i) in held)
            loses = [("t", i)]
        elif kind is Kind.SPILL:
            demand(i not in disk and 0 <= i <= length)
            array = state(i)
            demand(array != batch or chain.input)
            disk[i] = array[2]
            seconds += chain.write * array[2]
        elif kind is Kind.LOAD:
            demand(i in disk and ("x", i) not in held)
            gives["x", i] = (new(disk[i]),)
            seconds += chain.read * disk[i]
        elif kind is Kind.DROP_DISK:
            demand(i in disk)
            del disk[i]
        held |= gives
        phases += [before, size(held) + extra]
        for name in loses:
            held.pop(name, None)
        if kind is Kind.BACKWARD:
            if chain.update == "during backward":
                phases.append(size(held) + stage.update_extra)
                # Gradients that are shared may be released elsewhere than they appear.
                held["g", i] = (new(stage.gradient - stage.released),)
                seconds += stage.update_seconds
            elif i == 0:
                phases.append(size(held) + max(stage.update_extra for stage in chain.stages))
                seconds += sum(stage.update_seconds for stage in chain.stages)
        during.append(max(*phases, size(held)))
        after.append(size(held))
    demand(lossed and done == set(range(length)) and not disk)
    demand(not any(name[0] == "t" or (name[0] == "x" and name[1]) for name in held))
    fixed = sum(chain.fixed.values())
    return [b + fixed for b in during], [b + fixed for b in after], seconds, runs


def assert_same(actions, chain):
    """Assert that both simulators say the same, be it a refusal; return whether it was none."""
    try:
        during, after, seconds, runs = slow_simulate(actions, chain)
    except InvalidError:
        with pytest.raises(
            ScheduleError, match=r"^action \d+, \w+( \w+)? -?\d+: |^at the end, after"
        ):
            simulate(actions, chain)
        return False
    simulation = simulate(actions, chain)
    assert simulation.during.tolist() == during
    assert simulation.after.tolist() == after
    assert simulation.seconds == seconds == simulation.durations.sum()
    assert simulation.peak == max(during) == during[simulation.peak_at]
    stages = range(len(chain))
    assert simulation.forwards.tolist() == [runs[False, k] for k in stages]
    assert simulation.tapes.tolist() == [runs[True, k] for k in stages]
    assert np.array_equal(simulation.runs, simulation.forwards + simulation.tapes)
    kinds = simulation.by_kind
    assert all((kinds[kind] >= 0).all() for kind in kinds)
    assert sum(kinds.values()).tolist() == during
    assert sum(simulation.at_peak.values()) == simulation.peak
    assert set(chain.fixed) <= set(kinds)
    return True


@settings(max_examples=150, deadline=None)
@given(chains(), st.randoms(use_true_random=False))
def test_random_schedules_cost_what_the_slow_simulator_says(chain, rng):
    work = random_work(rng, chain)
    assert assert_same(tidy(work, chain), chain)


@settings(max_examples=150, deadline=None)
@given(chains(longest=5), st.randoms(use_true_random=False))
def test_a_damaged_schedule_is_refused_unless_it_is_sound_all_the_same(chain, rng):
    source = rng.choice([lambda c: tidy(random_work(rng, c), c), *strategies(len(chain))])
    actions = list(source(chain))
    for _ in range(10):
        assert_same(damaged(actions, rng, len(chain)), chain)


def damaged(actions: list[Action], rng: Random, length: int) -> list[Action]:
    actions, place = list(actions), rng.randrange(len(actions))
    match rng.randrange(5):
        case 0:
            del actions[place]
        case 1:
            actions.insert(rng.randrange(len(actions)), actions[place])
        case 2:
            other = rng.randrange(len(actions))
            actions[place], actions[other] = actions[other], actions[place]
        case 3:
            actions[place] = Action(rng.choice(list(Kind)), actions[place].index)
        case 4:
            actions[place] = Action(actions[place].kind, rng.randrange(-1, length + 2))
    return actions


def test_every_single_omission_from_a_lean_schedule_is_noticed():
    # Nothing in it is superfluous but the drop of x_0.
    chain = homogeneous(6, Stage(output=1, cotangent=1, needs_input=True))
    for strategy in strategies(6):
        actions = strategy(chain).actions
        for place, action in enumerate(actions):
            if action != Action(Kind.DROP, 0):
                with pytest.raises(ScheduleError):
                    simulate(actions[:place] + actions[place + 1 :], chain)


BACK = "backward 1, backward 0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keep 1", "action 0, keep 1: x_1 is not there; a run of stage 0 comes first"),
        (
            "advance 0, advance 0",
            "action 1, advance 0: x_0 is not there; keep it until here, nothing",
        ),
        ("keep 0, keep 0", "action 1, keep 0: x_1 is held already; drop 1 comes first"),
        (
            "tape 0, drop 1, tape 0",
            "action 2, tape 0: t_0 is there already; backward 0 or drop tape 0",
        ),
        ("spill 0, drop 0, keep 0", "action 2, keep 0: x_0 is not there; load 0 comes first"),
        ("spill 0, spill 0", "action 1, spill 0: a copy of x_0 is on disk already; drop disk 0"),
        ("spill 0, load 0", "action 1, load 0: x_0 is held already; drop 0 comes first"),
        ("load 1", "action 0, load 1: there is no copy of x_1 on disk; spill 1 comes first"),
        ("drop disk 1", "action 0, drop disk 1: there is no copy of x_1 on disk to delete"),
        ("drop tape 1", "action 0, drop tape 1: there is no t_1 to let go"),
        ("tape 0, drop 1, drop 1", "action 2, drop 1: x_1 is not held by itself, so"),
        ("loss 2", "action 0, loss 2: x_2 is not there; a run of stage 1 comes first"),
        ("loss 1", "action 0, loss 1: the loss has the index L = 2 here"),
        ("tape 2", "action 0, tape 2: there are 2 stages, of index 0 to 1"),
        ("drop 3", "action 0, drop 3: there are the states x_0 to x_2"),
        ("tape 0, tape 1, loss 2, loss 2", "action 3, loss 2: the loss has been taken already"),
        ("tape 0, tape 1, backward 1", "action 2, backward 1: loss 2 comes first"),
        ("tape 0, tape 1, loss 2, backward 0", "action 3, backward 0: backward 1 comes first"),
        (
            "keep 0, keep 1, loss 2, backward 1",
            "action 3, backward 1: there is no t_1; tape 1 comes",
        ),
        ("tape 0, tape 1, loss 2, backward 1, backward 1", "backward 1 has been done already"),
        ("keep 0, keep 1", "at the end, after 2 actions: loss 2 is missing"),
        (
            "tape 0, tape 1, loss 2, backward 1",
            "at the end, after 4 actions: backward 0 is missing",
        ),
        (f"tape 0, tape 1, loss 2, {BACK}", "left behind: x_1 (drop 1), x_2 (drop 2)"),
        (
            f"tape 0, tape 1, loss 2, {BACK}, drop 2, tape 1, drop 1, drop 2",
            "left behind: t_1 (drop tape 1)",
        ),
        (
            f"spill 0, tape 0, tape 1, loss 2, {BACK}, drop 1, drop 2",
            "the copy of x_0 on disk (drop disk 0)",
        ),
    ],
)
def test_a_refusal_says_which_action_and_what_would_come_first(text, message):
    with pytest.raises(ScheduleError) as error:
        simulate(parse(text), homogeneous(2))
    assert message in str(error.value)


def test_a_backward_that_needs_its_input_is_refused_without():
    chain = homogeneous(1, Stage(output=1, cotangent=1, needs_input=True))
    actions = parse("tape 0, drop 0, loss 1, drop 1, backward 0")
    with pytest.raises(ScheduleError, match="action 4, backward 0: x_0 is not there"):
        simulate(actions, chain)


def test_what_lies_in_the_batch_cannot_be_spilled():
    chain = Chain(stages=(Stage(output=0, cotangent=0, view=True), Stage(output=1, cotangent=1)))
    with pytest.raises(ScheduleError, match="action 1, spill 1: x_1 lies in the batch"):
        simulate(parse("keep 0, spill 1"), chain)


def parse(text: str) -> list[Action]:
    return [
        Action(Kind(kind), int(index))
        for kind, index in (s.rsplit(" ", 1) for s in text.split(", "))
    ]


def test_a_plain_step_by_hand():
    # Two layers and a reshape between them.
    chain = Chain(
        stages=(
            Stage(
                output=40,
                cotangent=40,
                holds_output=False,
                needs_input=True,
                gradient=5,
                released=5,
            ),
            Stage(output=0, cotangent=0, view=True, holds_output=False),
            Stage(
                output=20, cotangent=20, tape=3, holds_input=True, backward_extra=-2, update_extra=9
            ),
        ),
        loss_extra=7,
        fixed={"parameters": 100},
    )
    actions = (
        "tape 0, tape 1, drop 1, tape 2, drop 2, loss 3, drop 3, backward 2, backward 1, backward 0"
    )
    simulation = simulate(parse(actions), chain)
    # The tapes of stages 0 and 1 hold nothing, the reshape has no bytes, and the tape of stage 2 keeps
    # x_1; d_3 comes with the loss, d_1 with backward 1, and then gradients, whose update is not the most.
    during = [40, 40, 40, 40 + 20 + 3, 63, 63 + 20 + 7, 83, 83, 40, 40 + 5]
    after = [40, 40, 40, 63, 63, 83, 83, 0, 40, 5]
    assert simulation.during.tolist() == [100 + size for size in during]
    assert simulation.after.tolist() == [100 + size for size in after]
    assert simulation.peak_at == 5
    assert simulation.at_peak == {
        "parameters": 100,
        "activations": 60,
        "tapes": 3,
        "cotangents": 20,
        "gradients": 0,
        "temporaries": 7,
    }


def test_a_state_made_again_counts_beside_the_one_that_a_tape_keeps():
    stage = Stage(output=10, cotangent=1, holds_input=True)
    chain = Chain(stages=(stage, stage), input=10)
    actions = parse(
        "keep 0, tape 1, drop 1, loss 2, drop 2, tape 0, drop 1, backward 1, backward 0"
    )
    # x_0, x_1 in t_1, x_2 in t_1, d_2, and then the new x_1.
    assert simulate(actions, chain).during[5] == 10 + 10 + 10 + 1 + 10


def test_gradients_go_stage_by_stage_or_at_the_end():
    stage = Stage(
        output=1, cotangent=1, gradient=100, released=100, update_extra=50, update_seconds=3.0
    )
    during = Chain(stages=(stage,) * 4, update="during backward")
    after = Chain(stages=(stage,) * 4)
    actions = strategies(4)[0](after)
    early, late = simulate(actions, during), simulate(actions, after)
    assert early.by_kind["gradients"].max() == 100
    assert late.by_kind["gradients"].max() == 400
    assert early.after[-1] == 0
    assert late.after[-1] == 400
    assert early.by_kind["temporaries"].max() == late.by_kind["temporaries"].max() == 50
    assert early.seconds == late.seconds == 4 * 2 + 4 * 3


def test_slots_are_counted_without_what_is_worked_on():
    chain = homogeneous(3)
    text = (
        "spill 0, keep 0, keep 1, drop 1, tape 2, drop 2, loss 3, drop 3, backward 2, "
        "advance 0, tape 1, drop 1, drop 2, backward 1, "
        "load 0, drop disk 0, tape 0, drop 0, drop 1, backward 0"
    )
    simulation = simulate(parse(text), chain)
    assert simulation.most_disk == 1
    assert simulation.peak_disk == 1
    # x_0 and x_1, when stage 1 has been run and x_2 is worked on.
    assert simulation.most_states == 2
    assert simulate(strategies(3)[0](chain), chain).most_slots == 2


def test_a_long_chain():
    chain = homogeneous(10_000)
    forward = [Action(Kind.TAPE, k) for k in range(10_000)]
    back = [Action(Kind.BACKWARD, k) for k in reversed(range(10_000))]
    schedule = tidy([*forward, Action(Kind.LOSS, 10_000), *back], chain)
    # The states that the tapes hold, d_L and d_{L-1}.
    assert simulate(schedule, chain).peak == 10_000 + 2
