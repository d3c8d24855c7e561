"""Generators are found wherever a function can get at them, and nothing is called on the way."""

import collections
import functools
import logging
import sys
import types

import numpy as np
import pytest

import thriftgrad as tg
from thriftgrad.memory import generators
from thriftgrad.memory.generators import bit_generators

RNG = np.random.default_rng(0)
SETTINGS = types.SimpleNamespace(rng=np.random.default_rng(1))
SELF = types.ModuleType("a_module_of_ones_own")
SELF.noise = np.random.default_rng(2)
SELF.inner = types.ModuleType("a_module_of_ones_own.inner")
SELF.inner.rng = np.random.default_rng(3)


def draw():
    return RNG.normal()


def indirectly(x):
    return [draw() for _ in x]


def through_a_module(x):
    return x + SELF.noise.normal()


def through_two_modules(x):
    return x + SELF.inner.rng.normal()


class Noise:
    of_the_class = np.random.default_rng(4)

    def __call__(self, x):
        return self.help(x)

    def help(self, x):
        return x + draw()


class Slotted:
    __slots__ = ("__private", "never")

    def __init__(self, rng):
        self.__private = rng


class Method:
    def __init__(self, rng):
        self.rng = rng

    def run(self, x):
        return x + self.rng.normal()

    @staticmethod
    def static(x):
        return x + draw()

    @property
    def noise(self):
        raise AssertionError("called")

    def __getattr__(self, name):
        raise AssertionError("called")


def ways():
    """Return roots, each with the one generator it leads to."""
    rng = np.random.default_rng(9)

    def closure(x):
        return x + rng.normal()

    def defaults(x, rng=rng):
        return x + rng.normal()

    def keyword(x, *, rng=rng):
        return x + rng.normal()

    def nested(x):
        def inner():
            return [closure(each) for each in x]

        return inner()

    def attribute(x):
        return x

    attribute.rng = rng
    cycle = [rng]
    cycle.append(cycle)
    table = np.array([None, rng])
    model = tg.nn.Sequential(np.tanh, tg.nn.Dropout(0.5, rng=rng))
    noise = Noise()
    noise.of_the_class = None
    return {
        "itself": (rng, rng),
        "closure": (closure, rng),
        "defaults": (defaults, rng),
        "keyword default": (keyword, rng),
        "nested function": (nested, rng),
        "attribute of a function": (attribute, rng),
        "wrapped": (functools.wraps(closure)(lambda x: x), rng),
        "partial": (functools.partial(lambda x, r: x, r=rng), rng),
        "bound method": (Method(rng).run, rng),
        "method of the generator": (rng.normal, rng),
        "private slot": (Slotted(rng), rng),
        "cycle": (cycle, rng),
        "dict in tuple": (({"a": [rng]},), rng),
        "deque": (collections.deque([rng]), rng),
        "defaultdict": (collections.defaultdict(list, a=[rng]), rng),
        "array of objects": (table, rng),
        "model": (model, rng),
        "function over a model": (lambda x: model(x), rng),
        "gradient of a function": (tg.grad(closure), rng),
        "checkpoint": (tg.checkpoint(closure), rng),
        "global": (draw, RNG),
        "global of a function called": (indirectly, RNG),
        "static method": (Method.static, RNG),
        "method called by a method": (lambda x: Method.static(x), RNG),
        "global namespace": (lambda x: x + SETTINGS.rng.normal(), SETTINGS.rng),
        "module": (through_a_module, SELF.noise),
        "module in a module": (through_two_modules, SELF.inner.rng),
    }


@pytest.mark.parametrize("way", ways())
def test_every_way_leads_there(way) -> None:
    root, rng = ways()[way]
    found = bit_generators(root)
    seed = rng.bit_generator.seed_seq.entropy
    assert seed in [source.seed_seq.entropy for source in found]


def test_objects_lead_to_their_class() -> None:
    found = {source.seed_seq.entropy for source in bit_generators(Noise())}
    assert found == {0, 4}


def test_generators_with_one_source_count_once() -> None:
    source = np.random.PCG64(0)
    a, b = np.random.Generator(source), np.random.Generator(source)
    assert bit_generators(a, [b, b]) == [source]


def test_an_unbound_name_and_libraries_lead_nowhere() -> None:
    def early(x):
        return late + x

    log = logging.getLogger("thriftgrad.test")
    assert bit_generators(early, lambda x: log.info(x), np.linalg.norm, sys, tg.nn.Linear) == []
    late = 1.0
    assert early(1.0) == 2.0


def test_the_search_has_an_end(monkeypatch) -> None:
    monkeypatch.setattr(generators, "MOST", 50)
    with pytest.warns(RuntimeWarning, match="more than 50 objects.*arguments"):
        bit_generators([[i] for i in range(100)])
