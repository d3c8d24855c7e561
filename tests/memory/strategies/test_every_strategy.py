"""What holds of every strategy on every chain."""

from hypothesis import given, settings
from memory.chains import chains, strategies

from thriftgrad.memory.schedule import tidy
from thriftgrad.memory.simulate import simulate
from thriftgrad.memory.stages import Chain


@settings(max_examples=60, deadline=None)
@given(chains())
def test_every_strategy_gives_a_valid_lean_schedule_on_every_chain(chain: Chain) -> None:
    fixed = sum(chain.fixed.values())
    for strategy in strategies(len(chain)):
        schedule = strategy(chain)
        simulation = simulate(schedule, chain)
        assert (simulation.tapes == 1).all(), schedule.strategy
        assert tidy(schedule, chain, schedule.strategy) == schedule
        assert simulation.peak >= fixed
        assert simulation.after[-1] >= fixed
