"""The prediction is what a step really holds: never exceeded, and at most 1 % off."""

import numpy as np
import pytest
from memory.random_models import draw, peaks

from thriftgrad.errors import BudgetError
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.strategies.everything import everything
from thriftgrad.memory.strategies.mixed import mixed
from thriftgrad.memory.strategies.nothing import nothing
from thriftgrad.memory.strategies.optimal import optimal
from thriftgrad.memory.strategies.revolve import revolve
from thriftgrad.memory.strategies.sqrt import sqrt


def check(case, chain, schedule, budget):
    case.stepper(schedule)()
    predicted, measured = peaks(case, chain, schedule)
    assert predicted <= budget
    assert measured <= predicted
    assert predicted <= 1.01 * measured


@pytest.mark.parametrize("seed", range(4))
def test_peaks_of_classic_strategies(seed):
    with np.errstate(all="ignore"):
        case = draw(seed, depth=(3, 14), least=150_000)
        chain = case.measure()
        for strategy in (everything(), nothing(), sqrt(), revolve(3), mixed(3)):
            schedule = strategy(chain)
            check(case, chain, schedule, simulate(schedule, chain).peak)


@pytest.mark.parametrize("seed", [10, 12])
def test_peaks_of_budgets_from_the_least_to_the_plain(seed):
    with np.errstate(all="ignore"):
        case = draw(seed, depth=(6, 9), least=200_000)
        chain = case.measure()
        with pytest.raises(BudgetError) as error:
            optimal(1)(chain)
        least, plain = error.value.least, simulate(everything()(chain), chain).peak
        for budget in np.linspace(least, max(least, plain), 10).astype(int):
            check(case, chain, optimal(int(budget))(chain), budget)


@pytest.mark.parametrize("seed", range(4))
def test_losses_and_weights_are_those_of_plain_training(seed):
    with np.errstate(all="ignore"):
        plain, planned = (draw(seed, depth=(3, 14), least=1) for _ in range(2))
        chain = planned.measure()
        for strategy in (nothing(), sqrt(), revolve(3), mixed(3)):
            step = planned.stepper(strategy(chain))
            for _ in range(2):
                assert step() == plain.plain_step()
        for own, wanted in zip(planned.model.parameters(), plain.model.parameters(), strict=True):
            assert np.array_equal(own.value, wanted.value)
