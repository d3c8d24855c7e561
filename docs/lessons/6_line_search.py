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
# # 6. Downhill without a learning rate
#
# How long should a step be? Too short, and nothing happens; too long, and the cost goes up. Mini-batch
# methods live with a fixed rate because their cost is a different function at every step. If all examples
# are used at once, it is one function, and then we may simply *look*: try a length, see how far down it
# led, and try a shorter one if that was not enough. What "enough" means is due to Larry Armijo (1966).

# %%
import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

import thriftgrad as tg

# %% [markdown]
# ## Enough
#
# From $p$ we go along $-g$, the gradient. For a very small length $t$ the cost falls by
# $t\,\lVert g \rVert^2$, as the slope promises. For a longer step, the valley bends up and we get less.
# Armijo's condition asks for a part $c$ of the promise:
#
# $$C(p - t g) \;\le\; C(p) - c\, t\, \lVert g \rVert^2 .$$
#
# The right side is a straight line, less steep than the slope. Near $t = 0$ the cost lies below it, so
# short steps always pass; that is why the search must end. We begin with a long step, and halve it until it
# does. In one dimension it can be seen at a glance:


# %%
def valley(p):
    return np.log(np.cosh(2 * p)) + p**2 / 8


p, c = 1.5, 0.3
g = 2 * np.tanh(2 * p) + p / 4
t = np.linspace(0, 1.6, 200)
trials = [1.5, 0.75]

# %%
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
ax.plot(t, valley(p - t * g), label="the cost along the step")
ax.plot(t, valley(p) - t * g * g, ":", label="what the slope promises")
ax.plot(t, valley(p) - c * t * g * g, "--", label=f"what is enough, c = {c}")
for trial in trials:
    passes = valley(p - trial * g) <= valley(p) - c * trial * g * g
    ax.plot(trial, valley(p - trial * g), "o", color="green" if passes else "red")
ax.set_ylim(-1, 4.5)
ax.set_xlabel("length t")
_ = ax.legend()

# %% [markdown]
# Why not just ask for *any* decrease? Because a sequence of ever smaller decreases may come to rest on a
# slope. Demanding a fixed part of the promise forbids that: each step must win in proportion to
# $\lVert g \rVert^2$, the cost cannot fall for ever, and therefore $\lVert g \rVert$ must go to zero.
#
# ## A small network, all images
#
# Six sigmoid neurons between 784 pixels and ten scores. Six! With softmax and cross-entropy at the end,
#
# $$C = \frac1B \sum_k \Bigl(\log \sum_j e^{z_{kj}} - z_{k y_k}\Bigr), \qquad
# \frac{\partial C}{\partial z_{kj}} = \frac1B \bigl(\text{softmax}(z_k)_j - [j = y_k]\bigr).$$

# %%
(images, labels), test = tg.data.mnist()
x, y = images[:2_500].astype(np.float64), labels[:2_500]
test_x, test_y = test[0][:2_000].astype(np.float64), test[1][:2_000]


# %%
def sigmoid(z):
    return np.exp(np.minimum(z, 0)) / (1 + np.exp(-np.abs(z)))


def scores(p, x):
    return sigmoid(x @ p["V"] + p["a"]) @ p["W"] + p["b"]


def cost(p, x, y):
    z = scores(p, x)
    z = z - np.max(z, axis=1, keepdims=True)
    return np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(y)), y])


def gradient(p, x, y):
    h = sigmoid(x @ p["V"] + p["a"])
    z = h @ p["W"] + p["b"]
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    delta = e / np.sum(e, axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    below = (delta @ p["W"].T) * h * (1 - h)
    return {"V": x.T @ below, "a": below.sum(axis=0), "W": h.T @ delta, "b": delta.sum(axis=0)}


# %%
rng = np.random.default_rng(0)
start = {
    "V": tg.nn.init.glorot_uniform((784, 6), rng, np.float64),
    "a": np.zeros(6),
    "W": tg.nn.init.glorot_uniform((6, 10), rng, np.float64),
    "b": np.zeros(10),
}
report = tg.check.gradients(cost, (start, x[:50], y[:50]), analytic=gradient)
print(report)
assert report.ok

# %% [markdown]
# ## The search
#
# A trial needs the cost only, not the gradient: one pass forward, which keeps nothing. A step that tries
# three lengths costs about twice as much as one of a fixed rate.


# %%
def armijo_step(p, x, y, first=16.0, shorter=0.5, enough=0.3):
    g, before = gradient(p, x, y), cost(p, x, y)
    squared = sum(np.sum(each * each) for each in g.values())
    t = first
    while True:
        trial = {name: p[name] - t * g[name] for name in p}
        after = cost(trial, x, y)
        if after <= before - enough * t * squared:
            return trial, after, t
        t *= shorter


# %%
p, costs, lengths = start, [cost(start, x, y)], []
begin = time.perf_counter()
for _ in range(80):
    p, after, t = armijo_step(p, x, y)
    costs.append(after)
    lengths.append(t)
print(f"cost {costs[0]:.3f} -> {costs[-1]:.3f} in {time.perf_counter() - begin:.1f} s")
print(f"{np.mean(np.argmax(scores(p, test_x), axis=1) == test_y):.1%} of the test images right")
assert all(after < before for before, after in pairwise(costs))

# %% [markdown]
# Not once has the cost gone up; it cannot. Compare with fixed rates, of which nobody can tell beforehand
# which will do:


# %%
def fixed(rate, steps=80):
    p, costs = start, [cost(start, x, y)]
    for _ in range(steps):
        g = gradient(p, x, y)
        p = {name: p[name] - rate * g[name] for name in p}
        costs.append(cost(p, x, y))
    return costs


# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(costs, label="Armijo", color="black")
for rate in (0.1, 1.0, 8.0):
    left.plot(fixed(rate), "--", label=f"rate {rate:g}")
left.set_xlabel("step")
left.set_ylabel("cost")
left.legend()
right.step(range(1, 81), lengths, where="mid", color="black")
right.set_yscale("log", base=2)
right.set_xlabel("step")
_ = right.set_ylabel("accepted length t")

# %% [markdown]
# On the right, the lengths that were accepted. There is no single good one: it depends on the ground.
#
# ## thriftgrad does the same
#
# `tg.optim.LineSearch` takes two functions: one that leaves the gradients on the parameters, and one for
# the trials, under which nothing is recorded. (`tg.optim.FullBatch(model, tg.nn.cross_entropy, x, y)` is
# both functions at a fraction of the time.) The same start, the same steps:

# %%
model = tg.nn.Sequential(
    tg.nn.Linear(784, 6, dtype=np.float64), sigmoid, tg.nn.Linear(6, 10, dtype=np.float64)
)
names = {"0.weight": "V", "0.bias": "a", "2.weight": "W", "2.bias": "b"}
model.load_state_dict({theirs: start[mine] for theirs, mine in names.items()})
search = tg.optim.LineSearch(model.parameters(), start=16.0, reduction=0.5, decrease=0.3)


# %%
def loss():
    return tg.nn.cross_entropy(model(x), y)


def loss_and_gradients():
    value = loss()
    value.backward()
    return value, None


# %% [markdown]
# `tg.train.Live` draws how it goes. `tg.train.fit` would call it by itself, but `fit` walks through
# mini-batches; in a loop of our own, we tell it what happened. In a notebook the picture changes in place
# below the cell; with or without one, `live.png` is written anew, once a second at most. On the right are
# eight images, with what the network makes of each at the moment.

# %%
live = tg.train.Live((test_x[:8], test_y[:8]), path="live.png")
state = tg.train.State(model, search, rng, epochs=80, steps=1)
live.on_train_begin(state)
for step in range(80):
    found = search.step(loss_and_gradients, loss)
    assert found.step == lengths[step]
    assert abs(found.loss - costs[step + 1]) < 1e-12
    state.epoch, state.step, state.loss = step + 1, 1, found.loss
    right = np.mean(np.argmax(tg.train.predict(model, x), axis=1) == y)
    scored = tg.train.evaluate(model, (test_x, test_y), loss=tg.nn.cross_entropy)
    state.history.append(tg.train.Epoch(step + 1, found.loss, right, *scored, found.step, 0.0))
    live.on_step_end(state)
live.on_train_end(state)

# %% [markdown]
# Its last state:

# %%
figure, ax = plt.subplots(figsize=(10, 5.2), layout="constrained")
ax.imshow(plt.imread("live.png"))
ax.set_axis_off()

# %%
arrived = model.state_dict()
differences = [np.max(np.abs(arrived[theirs] - p[mine])) for theirs, mine in names.items()]
print("after 80 steps, weights differ by", max(differences))
assert max(differences) < 1e-12

# %% [markdown]
# Note that `sigmoid` in the model is our own function from above: any function on arrays is a layer.
#
# ## Exercises
#
# Check by `tg.check.gradients(function, args, analytic=yours).raise_if_wrong()`. One is solved: the cost
# along a line, as a function of the length $t$. Its derivative is $-g(p - td)\cdot d$, here for $d = g(p)$:


# %%
def along(t, p, d):
    return valley(p - t * d)


def along_by_hand(t, p, d):
    q = p - t * d
    return -(2 * np.tanh(2 * q) + q / 4) * d


tg.check.gradients(along, (0.3, 1.5, 2.3), analytic=along_by_hand).raise_if_wrong()

# %% [markdown]
# **1.** Rosenbrock's valley, $(1 - u)^2 + 100\,(v - u^2)^2$, in which gradient descent crawls. Find its
# gradient, let `armijo_step` go down in it (it takes a function and a gradient; make them arguments), and
# count the steps.


# %%
def rosenbrock(w):
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2


exercise_1 = (rosenbrock, (np.array([-1.2, 1.0]),))

# %% [markdown]
# **2.** How far would the best step go? For least squares, $C = \tfrac12 \lVert Ap - b \rVert^2$, the cost
# along a line is a parabola. Find the gradient, then the length $t^*$ at its bottom, and show that Armijo's
# condition with $c = \tfrac12$ holds at $t^*$ and at no longer step.
#
# **3.** Books recommend a $c$ as small as $10^{-4}$. Try `enough=0.01` above and look at the accepted
# lengths. Why is a small part of the promise not always the quicker way down?


# %%
def least_squares(p, A, b):
    return np.sum((A @ p - b) ** 2) / 2


rng = np.random.default_rng(1)
exercise_2 = (least_squares, (rng.normal(size=3), rng.normal(size=(5, 3)), rng.normal(size=5)))

# %% [markdown]
# ```python
# tg.check.gradients(*exercise_1, analytic=yours).raise_if_wrong()
# ```

# %%
for function, args in (exercise_1, exercise_2):
    assert tg.check.gradients(function, args).ok

# %% [markdown]
# *Next: [the same gradients from JAX and PyTorch](7_other_libraries.py).*
