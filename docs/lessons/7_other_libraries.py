# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---


# %% [markdown]
# # 7. The same gradients from JAX and PyTorch
#
# A derivative is a fact, so libraries that differ in everything else must agree on it, up to the last
# digits. This page writes one network four times: with a gradient by hand, as plain NumPy for thriftgrad,
# for JAX and for PyTorch. They give the same numbers. What differs is what you have to write and to watch
# out for.
#
# The parts for JAX and PyTorch run where these are installed, and say so where they are not.

# %%
import time
from importlib.util import find_spec

import numpy as np

import thriftgrad as tg

# %% [markdown]
# ## One network, by hand
#
# Two layers with tanh between, softmax cross-entropy at the end, on 256 images:
#
# $$h = \tanh(xV + a), \qquad z = hW + b, \qquad
# C = \frac1B \sum_k \Bigl(\log \sum_j e^{z_{kj}} - z_{k y_k}\Bigr).$$

# %%
(images, labels), _ = tg.data.mnist()
x, y = images[:256].astype(np.float64), labels[:256]

rng = np.random.default_rng(0)
p = {
    "V": rng.normal(size=(784, 64)) / 28,
    "a": np.zeros(64),
    "W": rng.normal(size=(64, 10)) / 8,
    "b": np.zeros(10),
}


# %%
def cost(p, x, y):
    h = np.tanh(x @ p["V"] + p["a"])
    z = h @ p["W"] + p["b"]
    z = z - np.max(z, axis=1, keepdims=True)
    return np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(y)), y])


def by_hand(p, x, y):
    h = np.tanh(x @ p["V"] + p["a"])
    z = h @ p["W"] + p["b"]
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    delta = e / np.sum(e, axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    below = (delta @ p["W"].T) * (1 - h * h)
    return {"V": x.T @ below, "a": below.sum(axis=0), "W": h.T @ delta, "b": delta.sum(axis=0)}


# %% [markdown]
# A small function to see how far two gradients are apart, in relation to their size:


# %%
def apart(mine, its):
    size = max(np.max(np.abs(mine[name])) for name in mine)
    return max(np.max(np.abs(mine[name] - np.asarray(its[name]))) for name in mine) / size


gradient = by_hand(p, x, y)

# %% [markdown]
# ## thriftgrad
#
# The function is there already: `cost` is NumPy.

# %%
print("thriftgrad and by hand:", apart(gradient, tg.grad(cost)(p, x, y)))
assert apart(gradient, tg.grad(cost)(p, x, y)) < 1e-12

# %% [markdown]
# ## JAX
#
# The function is written anew with `jax.numpy`. Most names are those of NumPy, and many functions can be
# carried over by changing the import. Three things to know:
#
# * JAX computes in float32 unless told otherwise *before* the first array is made, and casts float64 input
#   without a word. Two gradients that agree to seven digits only are mostly this.
# * Its arrays cannot be written into; `z.at[i].set(v)` makes a new one.
# * `jax.jit` compiles a function for given shapes. The first call takes long, the others are quick, and
#   Python's `if` and `for` run only once, while it is compiled.

# %%
HAS_JAX = find_spec("jax") is not None
if HAS_JAX:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def jax_cost(p, x, y):
        h = jnp.tanh(x @ p["V"] + p["a"])
        z = h @ p["W"] + p["b"]
        z = z - jnp.max(z, axis=1, keepdims=True)
        return jnp.mean(jnp.log(jnp.sum(jnp.exp(z), axis=1)) - z[jnp.arange(len(y)), y])

    jax_gradient = jax.jit(jax.grad(jax_cost))
    its = jax_gradient(p, x, y)
    print("JAX and by hand:", apart(gradient, its))
    assert apart(gradient, its) < 1e-12
else:
    print("JAX is not installed (pip install jax): this part was not run")

# %% [markdown]
# ## PyTorch
#
# Here the *tensors* carry the information that a gradient is wanted, and `backward` leaves it on them. To
# know:
#
# * It *adds* to `.grad`. Whoever forgets to clear it sums over all steps so far. (thriftgrad's parameters
#   work the same way, and `optimizer.zero_grad()` clears them.)
# * Its `nn.Linear` keeps weights as (outputs, inputs), transposed from ours.
# * Of a complex variable, its gradient is the conjugate of that of JAX and thriftgrad.

# %%
HAS_TORCH = find_spec("torch") is not None
if HAS_TORCH:
    import torch

    def torch_gradient(p, x, y):
        t = {name: torch.tensor(value, requires_grad=True) for name, value in p.items()}
        h = torch.tanh(torch.from_numpy(x) @ t["V"] + t["a"])
        z = h @ t["W"] + t["b"]
        torch.nn.functional.cross_entropy(z, torch.from_numpy(y)).backward()
        return {name: leaf.grad.numpy() for name, leaf in t.items()}

    its = torch_gradient(p, x, y)
    print("PyTorch and by hand:", apart(gradient, its))
    assert apart(gradient, its) < 1e-12
else:
    print("PyTorch is not installed (pip install torch): this part was not run")

# %% [markdown]
# Weights move between the layers of PyTorch and thriftgrad by a transposition, and the outputs are then the
# same:

# %%
if HAS_TORCH:
    theirs = torch.nn.Linear(784, 64, dtype=torch.float64)
    ours = tg.nn.Linear(784, 64, dtype=np.float64)
    ours.load_state_dict(
        {"weight": theirs.weight.detach().numpy().T, "bias": theirs.bias.detach().numpy()}
    )
    outputs = theirs(torch.from_numpy(x)).detach().numpy()
    with tg.no_grad():
        assert np.max(np.abs(ours(x) - outputs)) < 1e-12

# %% [markdown]
# ## In one call
#
# `tg.check.compare` does the rewriting for you, where a function is made of what the other library has too.
# It puts `jax.numpy`, or a translation to PyTorch, in the place of `np`, runs the same gradient there, and
# reports as `tg.check.gradients` does.

# %%
for library, there in (("jax", HAS_JAX), ("torch", HAS_TORCH)):
    if there:
        report = tg.check.compare(cost, (p, x, y), with_=library)
        print(report)
        assert report.ok

# %% [markdown]
# ## The same training
#
# Equal gradients are a matter of one moment. Fifty steps in which each gradient depends on all before it
# are a harder test: an error would grow.


# %%
def descend(gradient, steps=50, rate=0.5):
    q = dict(p)
    for _ in range(steps):
        g = gradient(q, x, y)
        q = {name: q[name] - rate * np.asarray(g[name]) for name in q}
    return q


arrived = descend(by_hand)
print(f"cost {cost(p, x, y):.3f} -> {cost(arrived, x, y):.3f}")
gradients = {"thriftgrad": tg.grad(cost)}
if HAS_JAX:
    gradients["JAX"] = jax_gradient
if HAS_TORCH:
    gradients["PyTorch"] = torch_gradient
for name, its in gradients.items():
    print(f"{name:10} ends {apart(arrived, descend(its)):.1e} away")
    assert apart(arrived, descend(its)) < 1e-12

# %% [markdown]
# ## What they take
#
# Milliseconds for one gradient, the best of ten, on the machine that ran this page:


# %%
def milliseconds(function):
    times = []
    for _ in range(10):
        start = time.perf_counter()
        function(p, x, y)["b"][
            0
        ].item()  # JAX returns before it is done; a number must be waited for
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


for name, its in {"by hand": by_hand, **gradients}.items():
    print(f"{name:10} {milliseconds(its):6.2f} ms")

# %% [markdown]
# At this size nearly all of it goes into the products of matrices, which are the same everywhere, but for
# how many threads each library takes. Where many small operations follow each other, a compiler gains;
# where a GPU is, PyTorch and JAX can use it. thriftgrad's point is another one: your code stays NumPy.
#
# ## Where they need not agree
#
# A derivative is a fact only where there is one. At kinks each library has customs of its own. Here are
# three: the larger of two equal numbers, a number clipped just where it stands, and the length of a vector
# that has none.


# %%
def kinks(library, maximum, clip, norm):
    print(f"{library:10}  maximum {maximum}  clip {clip}  norm {norm}")


zero = np.zeros(2)
kinks(
    "thriftgrad",
    tg.grad(lambda v: np.maximum(v[0], v[1]))(zero),
    tg.grad(lambda t: np.clip(t, 0.0, 1.0))(0.0),
    tg.grad(np.linalg.norm)(zero),
)
if HAS_JAX:
    kinks(
        "JAX",
        jax.grad(lambda v: jnp.maximum(v[0], v[1]))(zero),
        jax.grad(lambda t: jnp.clip(t, 0.0, 1.0))(0.0),
        jax.grad(jnp.linalg.norm)(zero),
    )
if HAS_TORCH:

    def slope(function, value):
        t = torch.tensor(value, requires_grad=True)
        function(t).backward()
        return t.grad.numpy()

    kinks(
        "PyTorch",
        slope(lambda v: torch.maximum(v[0], v[1]), zero),
        slope(lambda t: torch.clamp(t, 0.0, 1.0), 0.0),
        slope(torch.linalg.norm, zero),
    )
assert np.array_equal(tg.grad(np.linalg.norm)(zero), zero)

# %% [markdown]
# None of these is wrong. But whoever compares two libraries at such a point finds a difference, and a NaN,
# once it is there, spreads to all parameters.
#
# ## Exercises
#
# Check by `tg.check.gradients(function, args, analytic=yours).raise_if_wrong()`; if you have JAX or
# PyTorch, let *their* gradient be `yours`. Solved: a quadratic form by hand,
# $\partial(x^\top A x)/\partial x = (A + A^\top) x$.


# %%
def quadratic(v, A):
    return v @ A @ v


args = rng.normal(size=3), rng.normal(size=(3, 3))
tg.check.gradients(quadratic, args, analytic=lambda v, A: (A + A.T) @ v).raise_if_wrong()

# %% [markdown]
# **1.** Attention, for one query: $\text{softmax}(Kq) \cdot V$, and its squared length. By hand in $q$, or
# by JAX.


# %%
def attention(q, K, V):
    s = np.exp(K @ q - np.max(K @ q))
    return np.sum((s @ V / np.sum(s)) ** 2)


exercise_1 = (
    attention,
    (rng.normal(size=3), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))),
)

# %% [markdown]
# **2.** The logarithm of a determinant. The formula is short, and PyTorch's name for the function is
# `torch.logdet`.


# %%
def log_determinant(A):
    return np.linalg.slogdet(A)[1]


exercise_2 = (log_determinant, (np.eye(3) + rng.normal(size=(3, 3)) / 4,))

# %% [markdown]
# ```python
# tg.check.gradients(*exercise_1, analytic=yours).raise_if_wrong()
# ```

# %%
for function, args in (exercise_1, exercise_2):
    assert tg.check.gradients(function, args).ok

# %% [markdown]
# *Next: [differentiating code that is not a network](8_not_a_network.py).*
