"""Random programs: value, gradient and Hessian-vector product, against JAX in float64.

`make oracle` runs 5,000 of them (ORACLE_PROGRAMS), `make test` a share. A failing program is shrunk to a
minimal one and printed with the seed of its inputs.
"""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from oracle.programs import OPERATIONS, Program, programs

import thriftgrad as tg

jax = pytest.importorskip("jax", reason="JAX is not installed: make oracle installs it")
jnp = jax.numpy

PROGRAMS = int(os.environ.get("ORACLE_PROGRAMS", "40"))
TOLERANCE = 1e-9


@pytest.fixture(scope="module", autouse=True)
def _double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@settings(
    max_examples=PROGRAMS,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(), seed=st.integers(0, 2**16))
def test_programs_agree(program: Program, seed: int) -> None:
    note(f"{program}\nseed {seed}")
    compare(program, seed)


def compare(program: Program, seed: int) -> None:
    inputs = program.draw_inputs(seed)
    direction = program.draw_inputs(seed + 1)
    value, gradient = tg.value_and_grad(lambda v: program(np, v))(inputs)
    product = tg.hvp(lambda v: program(np, v))(inputs, direction)

    def on_jax(v):
        return program(jnp, v)

    theirs = [jnp.asarray(v) for v in inputs]
    their_value, their_gradient = jax.value_and_grad(on_jax)(theirs)
    _, their_product = jax.jvp(jax.grad(on_jax), (theirs,), ([jnp.asarray(v) for v in direction],))
    assert_close("value", [value], [their_value])
    assert_close("gradient", gradient, their_gradient)
    assert_close("Hessian-vector product", product, their_product)


def assert_close(what: str, ours, theirs) -> None:
    ours = np.concatenate([np.ravel(v) for v in ours])
    theirs = np.concatenate([np.ravel(np.asarray(v)) for v in theirs])
    assert np.all(np.isfinite(theirs)), "the other library overflowed: mend the catalogue"
    difference = np.linalg.norm(ours - theirs) / max(1.0, float(np.linalg.norm(theirs)))
    assert difference <= TOLERANCE, f"{what}: {ours} differs from {theirs} by {difference:.1e}"


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_operation_agrees(name: str) -> None:
    """Every operation of the catalogue comes up at least once, by itself."""
    from oracle.programs import Step

    arity, along, _ = OPERATIONS[name]
    program = Program(((3, 3),) * arity, (Step(name, tuple(range(arity)), 1 if along else None),))
    compare(program, seed=3)


def test_a_planted_fault_is_found() -> None:
    from thriftgrad.autodiff.registry import RULES

    before = RULES[np.tanh]
    tg.defvjp(np.tanh, x=lambda g, ans: g * (1 - ans))
    try:
        with pytest.raises(AssertionError, match="gradient"):
            test_programs_agree()
    finally:
        RULES[np.tanh] = before
