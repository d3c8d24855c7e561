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
# # 2. Whole mini-batches at once
#
# Backpropagation is usually derived for one image. Nobody computes it that way. Written for a batch, it is
# the same four equations with matrices in the place of vectors, many times as fast, and with one new way to
# go wrong: where does the $1/B$ go?
#
# This page stands alone. If the equations come too quickly, [lesson 1](1_backpropagation.py) derives them.

# %%
import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

import thriftgrad as tg

# %%
(images, labels), (test_images, test_labels) = tg.data.mnist()
images, targets = images[:10_000].astype(np.float64), np.eye(10)[labels[:10_000]]
test_images = test_images.astype(np.float64)

# %% [markdown]
# ## One image at a time
#
# A network of sigmoid layers, $a' = \sigma(z)$ with $z = aW + b$, and half the squared distance to the
# target as the cost. For one image, $a$ and $z$ are vectors:


# %%
def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def random_network(widths, rng):
    return [(rng.normal(size=(n, m)) / np.sqrt(n), rng.normal(size=m)) for n, m in pairwise(widths)]


def backprop_one(network, image, target):
    outputs = [image]
    for W, b in network:
        outputs.append(sigmoid(outputs[-1] @ W + b))
    gradient = []
    upstream = outputs[-1] - target
    for (W, _), below, a in zip(network[::-1], outputs[-2::-1], outputs[:0:-1], strict=True):
        delta = upstream * a * (1 - a)  # σ' in terms of σ
        gradient.append((np.outer(below, delta), delta))
        upstream = W @ delta
    return gradient[::-1]


# %% [markdown]
# ## All rows at once
#
# Now let the images of a batch be the rows of a matrix $A$ of shape $B \times 784$.
#
# | | one image | a batch |
# |---|---|---|
# | sums | $z = aW + b$ | $Z = AW + b$, the same $b$ for every row |
# | outputs | $\sigma(z)$ | $\sigma(Z)$ |
# | at the end | $\delta = (a - t) \odot \sigma'(z)$ | $\Delta = \tfrac1B (A - T) \odot \sigma'(Z)$ |
# | one layer down | $W\delta$ | $\Delta W^\top$ |
# | weights | $a_i \delta_j$ | $A^\top \Delta$ |
# | biases | $\delta$ | the sum of the rows of $\Delta$ |
#
# The line for the weights is the interesting one. $(A^\top\Delta)_{ij} = \sum_k A_{ki}\,\Delta_{kj}$: the
# outer products of the single images, and their sum over the batch, in one matrix product.
#
# The bias was added to every row, so it hears from every row, and its gradient is their sum. This is a rule
# for all of reverse differentiation: *what was copied on the way forward is summed on the way back*.


# %%
def feedforward(network, A):
    for W, b in network:
        A = sigmoid(A @ W + b)
    return A


def cost(network, A, T):
    return np.sum((feedforward(network, A) - T) ** 2) / 2 / len(A)


def backprop(network, A, T):
    outputs = [A]
    for W, b in network:
        outputs.append(sigmoid(outputs[-1] @ W + b))
    gradient = []
    upstream = (outputs[-1] - T) / len(A)  # the one and only 1/B
    for (W, _), below, above in zip(network[::-1], outputs[-2::-1], outputs[:0:-1], strict=True):
        delta = upstream * above * (1 - above)
        gradient.append((below.T @ delta, delta.sum(axis=0)))
        upstream = delta @ W.T
    return gradient[::-1]


# %% [markdown]
# The mean of the single gradients and the gradient of the batch are the same numbers, but for the order in
# which they are added up.

# %%
network = random_network([784, 30, 10], np.random.default_rng(0))
batch = images[:100], targets[:100]
singles = [backprop_one(network, image, target) for image, target in zip(*batch, strict=True)]
whole = backprop(network, *batch)
for layer, (dW, db) in enumerate(whole):
    mean_W = sum(single[layer][0] for single in singles) / 100
    mean_b = sum(single[layer][1] for single in singles) / 100
    print("they differ by", np.max(np.abs(dW - mean_W)), np.max(np.abs(db - mean_b)))
    assert np.max(np.abs(dW - mean_W)) < 1e-15
    assert np.max(np.abs(db - mean_b)) < 1e-15

# %% [markdown]
# ## Why it is faster
#
# For 1,024 images we time the gradient in batches of 1, 4, 16, ... and take the best of three.


# %%
def seconds_an_image(size, count=1024):
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        for k in range(0, count, size):
            backprop(network, images[k : k + size], targets[k : k + size])
        best = min(best, time.perf_counter() - start)
    return best / count


sizes = 4 ** np.arange(6)
times = np.array([seconds_an_image(size) for size in sizes])
for size, t in zip(sizes, times, strict=True):
    print(f"batches of {size:5}: {1e6 * t:6.1f} µs an image, {times[0] / t:4.1f} times as fast")

# %%
figure, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
ax.semilogx(sizes, 1e6 * times, "o-", base=2)
ax.set_xlabel("images in a batch")
ax.set_ylabel("µs an image")
ax.grid(alpha=0.3)

# %% [markdown]
# Two things are saved.
#
# *Calls.* Each call of NumPy takes about a microsecond before the first number is touched. A gradient makes
# two dozen of them, for one image or for a thousand.
#
# *Memory traffic.* The first matrix has 23,520 entries, which one image uses once each: two operations, a
# multiplication and an addition, for every number that is fetched. And its gradient, an outer product, is
# as large as the matrix and is written out for every single image. In a product of matrices, each entry
# that is fetched serves all rows of the batch before it has to go.
#
# Beyond some size nothing more is gained: the processor is busy with arithmetic, and there is no way around
# that. And a larger batch means fewer steps for the same images. So one takes a batch that is large enough
# to be fast, and no larger.
#
# ## Where the 1/B goes
#
# The cost is a *mean* over the batch. Its $1/B$ is a factor of the whole cost, therefore of every gradient,
# and it has to come in exactly once. We put it into $\Delta$ at the end of the network, from where it flows
# to all gradients by itself. It could as well stand in the weights' and the biases' gradients, or be part
# of the learning rate. Only not in two of these places.
#
# This happens all the time: the cost has its mean, and then the update divides by the batch size "because
# we average over the batch".


# %%
def divided_twice(network, A, T):
    return [(dW / len(A), db / len(A)) for dW, db in backprop(network, A, T)]


# %% [markdown]
# What comes of it? No error, no NaN. The gradient points in the right direction and the cost goes down. It
# just does so $B$ times too slowly.


# %%
def step(network, gradient, rate):
    return [
        (W - rate * dW, b - rate * db) for (W, b), (dW, db) in zip(network, gradient, strict=True)
    ]


def train(network, gradient, rate, size=50, epochs=5):
    rng = np.random.default_rng(1)
    costs = []
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for k in range(0, len(images), size):
            part = order[k : k + size]
            network = step(network, gradient(network, images[part], targets[part]), rate)
        costs.append(cost(network, images, targets))
    return network, costs


# %%
def accuracy(network):
    return np.mean(np.argmax(feedforward(network, test_images), axis=1) == test_labels)


right, right_costs = train(network, backprop, rate=3.0)
twice, twice_costs = train(network, divided_twice, rate=3.0)
print(f"divided once:  {accuracy(right):.1%} of the test images right")
print(f"divided twice: {accuracy(twice):.1%}")
assert accuracy(right) > accuracy(twice) + 0.05

# %%
figure, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
ax.plot(range(1, 6), right_costs, "o-", label="divided once")
ax.plot(range(1, 6), twice_costs, "o-", label="divided twice")
ax.set_xlabel("epoch")
ax.set_ylabel("cost")
ax.set_xticks(range(1, 6))
ax.set_ylim(0)
_ = ax.legend()

# %% [markdown]
# One looks at the lower accuracy, takes it for a bad network or a small learning rate, raises the rate
# fiftyfold, and all is well, until somebody changes the batch size. Indeed, dividing twice at rate 3 is
# dividing once at rate 3/50:

# %%
slow, slow_costs = train(network, backprop, rate=3.0 / 50)
for (W, b), (V, c) in zip(slow, twice, strict=True):
    assert np.max(np.abs(W - V)) < 1e-12
    assert np.max(np.abs(b - c)) < 1e-12

# %% [markdown]
# The way to see it is not to look at accuracies but at the gradient. A gradient that was divided twice is
# too small by a factor that is the same for every entry, and that factor *changes with the batch*. The
# checker tries several batches and says so:

# %%
rng = np.random.default_rng(2)
tiny = random_network([5, 4, 3], rng)
args = tiny, rng.normal(size=(8, 5)), rng.uniform(size=(8, 3))
report = tg.check.gradients(cost, args, analytic=divided_twice)
print(report)
assert report.diagnosis == "divided twice by the batch size"
assert tg.check.gradients(cost, args, analytic=backprop).ok

# %% [markdown]
# Its opposite, the sum where a mean was meant, makes itself known sooner: the steps are $B$ times too
# large, and the network jumps about or saturates. There is nothing wrong with costs that are sums, if one
# means it. Then the learning rate has to shrink as the batch grows.
#
# ## thriftgrad does the same
#
# `cost` was written for a batch, so its gradient is one for a batch. We train again with it.

# %%
by_thriftgrad, its_costs = train(network, tg.grad(cost), rate=3.0)
differences = [
    np.max(np.abs(p - q))
    for mine, its in zip(right, by_thriftgrad, strict=True)
    for p, q in zip(mine, its, strict=True)
]
print("after 1,000 steps, weights differ by", max(differences))
assert max(differences) < 1e-12

# %% [markdown]
# And with the layers, the cost and the optimiser of the library. `tg.nn.squared_error` is our cost, half
# and $1/B$ included; `tg.data.batches` cuts a data set into batches, shuffled by a generator as ours was.

# %%
model = tg.nn.Sequential(
    tg.nn.Linear(784, 30, dtype=np.float64),
    tg.nn.sigmoid,
    tg.nn.Linear(30, 10, dtype=np.float64),
    tg.nn.sigmoid,
)
(W0, b0), (W1, b1) = network
model.load_state_dict({"0.weight": W0, "0.bias": b0, "2.weight": W1, "2.bias": b1})
history = tg.train.fit(
    model,
    (images, targets),
    loss=tg.nn.squared_error,
    optimizer=tg.optim.SGD(model.parameters(), lr=3.0),
    epochs=5,
    batch_size=50,
    rng=1,
)

# %%
state = model.state_dict()
differences = [
    np.max(np.abs(state[f"{2 * layer}.{name}"] - value))
    for layer, pair in enumerate(right)
    for name, value in zip(("weight", "bias"), pair, strict=True)
]
print("after 1,000 steps, weights differ by", max(differences))
assert max(differences) < 1e-12

# %% [markdown]
# ## Exercises
#
# Each is checked by `tg.check.gradients(function, args, analytic=yours).raise_if_wrong()`, where `yours`
# takes the function's arguments and returns something shaped like the first. One is solved: a straight line
# through points.


# %%
def line(p, x, y):
    return np.mean((p["slope"] * x + p["offset"] - y) ** 2)


def line_by_hand(p, x, y):
    residual = 2 * (p["slope"] * x + p["offset"] - y) / len(x)
    return {"slope": residual @ x, "offset": residual.sum()}


args = {"slope": 1.5, "offset": 0.2}, rng.normal(size=6), rng.normal(size=6)
tg.check.gradients(line, args, analytic=line_by_hand).raise_if_wrong()

# %% [markdown]
# **1.** The usual cost of a classifier:
# $C = \tfrac1B \sum_k \bigl(\log \sum_j e^{Z_{kj}} - Z_{k y_k}\bigr)$ for scores $Z = AW + b$ and labels
# $y_k$. You will meet softmax on the way.


# %%
def cross_entropy(p, A, y):
    Z = A @ p["W"] + p["b"]
    return np.mean(np.log(np.sum(np.exp(Z), axis=1)) - Z[np.arange(len(y)), y])


p = {"W": rng.normal(size=(5, 3)), "b": rng.normal(size=3)}
exercise_1 = (cross_entropy, (p, rng.normal(size=(8, 5)), np.arange(8) % 3))

# %% [markdown]
# **2.** Add $\tfrac{\lambda}{2} \sum W_{ij}^2$ to the cost of this page, for all weight matrices. Does this
# term get a $1/B$?


# %%
def with_decay(network, A, T):
    return cost(network, A, T) + 0.05 * sum(np.sum(W**2) for W, _ in network) / 2


exercise_2 = (with_decay, (tiny, rng.normal(size=(8, 5)), rng.uniform(size=(8, 3))))

# %% [markdown]
# **3.** Some images count more than others: $C = \sum_k v_k C_k / \sum_k v_k$, with $C_k$ the cost of image
# $k$. What has become of $1/B$?


# %%
def weighted(network, A, T, v):
    each = np.sum((feedforward(network, A) - T) ** 2, axis=1) / 2
    return np.sum(v * each) / np.sum(v)


exercise_3 = (weighted, (*exercise_2[1], rng.uniform(1, 3, size=8)))

# %% [markdown]
# ```python
# tg.check.gradients(*exercise_1, analytic=yours).raise_if_wrong()
# ```
#
# thriftgrad itself:

# %%
for function, args in (exercise_1, exercise_2, exercise_3):
    assert tg.check.gradients(function, args).ok

# %% [markdown]
# *Next: [gradient checkpointing by hand](3_checkpointing.py). A batch makes all that the network remembers
# on its way forward $B$ times as large. What if there is no room for it?*
