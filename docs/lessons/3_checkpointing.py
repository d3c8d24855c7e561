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
# # 3. Gradient checkpointing by hand
#
# Backpropagation goes back through what the forward pass computed, and so all of it has to be there. For a
# deep network and a large batch that is most of the memory of a training step. But nothing forces us to
# *keep* it. What we have thrown away we can compute again, from the last place that we did keep. Time is
# paid for memory, and the exchange rate turns out to be astonishingly good.

# %%
import time
import tracemalloc
from collections import Counter
from functools import cache
from itertools import pairwise
from math import comb

import matplotlib.pyplot as plt
import numpy as np

import thriftgrad as tg

# %% [markdown]
# ## A deep network, one layer at a time
#
# $L$ layers, $x_{k+1} = \tanh(x_k W_k + b_k)$, where the rows of $x_k$ are a batch of $B$ examples. A layer
# runs forward, or pulls a cotangent $g = \partial C/\partial x_{k+1}$ back through itself:
#
# $$\Delta = g \odot (1 - x_{k+1}^2), \qquad \partial W = x_k^\top \Delta, \qquad
# \partial b = \textstyle\sum_{\text{rows}} \Delta, \qquad \partial x_k = \Delta W^\top .$$
#
# (If this is new, lessons [1](1_backpropagation.py) and [2](2_mini_batches.py) derive it.) Note what it
# needs: the layer's input $x_k$ and its output $x_{k+1}$. The last layer has no tanh, and a softmax
# cross-entropy follows.


# %%
def random_network(widths, rng):
    return [(rng.normal(size=(n, m)) / np.sqrt(n), np.zeros(m)) for n, m in pairwise(widths)]


def run(network, k, x):
    W, b = network[k]
    z = x @ W + b
    return z if k == len(network) - 1 else np.tanh(z)


def pull(network, k, x, y, g):
    delta = g if k == len(network) - 1 else g * (1 - y * y)
    return x.T @ delta, delta.sum(axis=0), delta @ network[k][0].T


def loss_slope(z, labels):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / len(labels)


# %% [markdown]
# ## What is held
#
# To count memory, let the states live in a dictionary that knows how many bytes are in it and how many
# there have been at most.


# %%
class Held(dict):
    def __init__(self):
        self.bytes = self.peak = 0

    def __setitem__(self, k, x):
        super().__setitem__(k, x)
        self.bytes += x.nbytes
        self.peak = max(self.peak, self.bytes)

    def pop(self, k):
        x = super().pop(k)
        self.bytes -= x.nbytes
        return x


# %% [markdown]
# ## Layer by layer, from the last to the first
#
# The gradient of the last layer is known first. By the time the first layer's is known, the last layer's
# may have been used and forgotten: an update of $W_k$ needs $\partial W_k$ and nothing else. So we do not
# return a list of gradients, which would be as large as the network. We write a *generator*, which hands
# out one layer's gradient and waits until it is asked for the next.
#
# May the receiver change $W_k$ at once? Yes: $\partial x_k$ has been computed already, and everything that
# comes later happens below layer $k$.


# %%
def keeping_all(network, x, labels, held):
    held[0] = x
    for k in range(len(network)):
        held[k + 1] = run(network, k, held[k])
    g = loss_slope(held[len(network)], labels)
    for k in reversed(range(len(network))):
        dW, db, g = pull(network, k, held[k], held.pop(k + 1), g)
        yield k, dW, db


# %% [markdown]
# Each state is let go as soon as it has been used. The peak comes at the end of the way forward: all
# $L + 1$ states.

# %%
rng = np.random.default_rng(0)
L, width, B = 16, 64, 256
network = random_network([width] * (L + 1), rng)
x, labels = rng.normal(size=(B, width)), rng.integers(0, width, size=B)
held = Held()
all_at_once = list(keeping_all(network, x, labels, held))
print("the most that was held:", held.peak, "bytes")
assert held.peak == (L + 1) * B * width * 8
assert held.bytes == x.nbytes

# %% [markdown]
# ## Keep some, recompute the rest
#
# Now choose some states to keep, the *checkpoints*. They cut the network into segments. On the way forward,
# only the checkpoints stay. On the way back, when a segment's turn comes, its states are computed again
# from the checkpoint at its beginning. The last segment's turn comes at once, so its states are kept in the
# first place.
#
# One more state is at hand for free: the checkpoint at the beginning of the segment above is the output of
# this segment's last layer. `runs` counts how often each layer runs.


# %%
def checkpointed(network, x, labels, keep, held, runs):
    starts = sorted({0, *keep})
    segments = list(zip(starts, [*starts[1:], len(network)], strict=True))

    for first, end in segments:
        held[first] = x
        for k in range(first, end):
            x = run(network, k, x)
            runs[k] += 1
            if first == starts[-1]:
                held[k + 1] = x

    g = loss_slope(x, labels)
    del x
    for first, end in reversed(segments):
        for k in range(first, end):
            if k + 1 not in held:
                held[k + 1] = run(network, k, held[k])
                runs[k] += 1
        for k in reversed(range(first, end)):
            dW, db, g = pull(network, k, held[k], held.pop(k + 1), g)
            yield k, dW, db


# %% [markdown]
# Which states were kept changes nothing in the result. Not to within rounding: *nothing*. The same
# operations on the same numbers give the same bits, whether they run for the first or for the second time.

# %%
for keep in ([], [8], [4, 8, 12], [1, 2, 3, 11], range(L)):
    held, runs = Held(), Counter()
    parts = checkpointed(network, x, labels, keep, held, runs)
    for (k, dW, db), (j, eW, eb) in zip(parts, all_at_once, strict=True):
        assert k == j
        assert np.array_equal(dW, eW)
        assert np.array_equal(db, eb)
    kept = ", ".join(map(str, keep)) or "nothing but the input"
    print(f"{held.peak:9,} bytes, {runs.total()} runs, keeping {kept}")

# %% [markdown]
# Look at the first and the last line. With no checkpoints there is a single segment, the whole network;
# with all states kept, each layer is its own segment. Neither saves anything. The good choices lie between.
#
# ## Every n-th layer
#
# Let $n$ divide $L$. There are $L/n$ segments. How much is held, and how much is run?
#
# At the end of the way forward there are the checkpoints, one for each segment, and the $n$ further states
# of the last segment. In earlier segments it is less, since the checkpoints above are gone. Outside the
# last segment, all layers but the last of each segment run twice:
#
# $$\text{peak} = \Bigl(\frac{L}{n} + n\Bigr) \cdot 8 B w \text{ bytes}, \qquad
# \text{runs} = L + \Bigl(\frac{L}{n} - 1\Bigr)(n - 1).$$
#
# We need not believe it. Here is the count for several depths, widths and batches:


# %%
def every(n, depth):
    return range(0, depth, n)


def count(depth, width, batch, n):
    rng = np.random.default_rng(0)
    network = random_network([width] * (depth + 1), rng)
    x, labels = rng.normal(size=(batch, width)), rng.integers(0, width, size=batch)
    held, runs = Held(), Counter()
    start = time.perf_counter()
    for _ in checkpointed(network, x, labels, every(n, depth), held, runs):
        pass
    return held.peak, runs.total(), time.perf_counter() - start


for depth, width, batch in ((12, 8, 5), (16, 32, 10), (64, 16, 20), (100, 8, 3)):
    for n in range(1, depth + 1):
        if depth % n == 0:
            peak, runs, _ = count(depth, width, batch, n)
            assert peak == (depth // n + n) * 8 * batch * width
            assert runs == depth + (depth // n - 1) * (n - 1)

# %% [markdown]
# So memory grows in proportion to batch and width, and there is nothing to be done about that here. But in
# the depth, it is $L/n + n$ in place of $L$. The derivative by $n$, $-L/n^2 + 1$, vanishes at
# $n = \sqrt L$, where the peak is $2\sqrt L$ states. A network of 10,000 layers in the memory of 200! And
# it costs less than one forward pass more. As a backward pass takes about twice as long as a forward pass,
# three units of work become at most four.

# %%
depth, width, batch = 64, 128, 256
divisors = [1, 2, 4, 8, 16, 32, 64]
counted = {n: count(depth, width, batch, n) for n in divisors}
rounds = [{n: count(depth, width, batch, n)[2] for n in divisors} for _ in range(4)]
seconds = {n: min(each[n] for each in rounds) for n in divisors}
plain_seconds = seconds[depth]

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.loglog(divisors, [counted[n][0] / 1e6 for n in divisors], "o-", base=2)
left.axvline(np.sqrt(depth), color="gray", linestyle="--")
left.set_yscale("linear")
left.set_xlabel(f"every n-th of {depth} layers kept")
left.set_ylabel("states at the peak, MB")
right.semilogx(
    divisors, [counted[n][1] / depth for n in divisors], "o-", base=2, label="layer runs"
)
right.semilogx(
    divisors,
    [seconds[n] / plain_seconds for n in divisors],
    "s--",
    base=2,
    label="seconds, measured",
)
right.set_xlabel(f"every n-th of {depth} layers kept")
right.set_ylabel("times as much as plain")
_ = right.legend()

# %%
n = 8
print(f"every {n}th layer: {counted[64][0] / counted[n][0]:.1f} times less memory,", end=" ")
print(f"{seconds[n] / plain_seconds:.2f} times the seconds")
assert counted[n][0] == min(peak for peak, _, _ in counted.values())

# %% [markdown]
# ## Is the count the truth?
#
# We have counted states. Python's own bookkeeping of allocations, `tracemalloc`, sees everything: states,
# gradients, temporaries. With gradients dropped as they come, these are few.


# %%
def measured(keep, drop):
    network = random_network([width] * (depth + 1), np.random.default_rng(0))
    x, labels = np.zeros((batch, width)), np.zeros(batch, int)
    held = Held()
    tracemalloc.start()
    parts = checkpointed(network, x, labels, keep, held, Counter())
    if drop:
        for _ in parts:
            pass
    else:
        list(parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, held.peak - x.nbytes  # x was there before


state = 8 * batch * width
for name, keep in (("plain", []), ("every 8th", every(8, depth))):
    for drop in (False, True):
        peak, states = measured(keep, drop)
        gradients = "dropped" if drop else "kept"
        print(
            f"{name:10} gradients {gradients:8} {peak / state:5.1f} states held, counted {states / state:.0f}"
        )
        assert not drop or states < peak < states + 6 * state

# %% [markdown]
# In the plain case, gradients hide: as they come, states go. Once the states are few, kept gradients are
# what is left, and the generator saves more than a second round of checkpoints would.
#
# ## Training, with equal results on equal seeds
#
# Real digits, a network of ten layers, updates as the gradients come. We train it four times from the same
# seed, with different checkpoints.

# %%
(images, digits), (test_images, test_digits) = tg.data.mnist()
images, digits = images[:6_000].astype(np.float64), digits[:6_000]
widths = [784, *[64] * 9, 10]


def train(keep, epochs=2, size=100, rate=0.1, seed=0):
    rng = np.random.default_rng(seed)
    network = random_network(widths, rng)
    peak = 0
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images), size):
            batch = order[start : start + size]
            held = Held()
            parts = checkpointed(network, images[batch], digits[batch], keep, held, Counter())
            for k, dW, db in parts:
                W, b = network[k]
                W -= rate * dW
                b -= rate * db
            peak = max(peak, held.peak - 8 * images[batch].size)  # the batch is there anyway
    return network, peak


# %%
def accuracy(network):
    x = test_images.astype(np.float64)
    for k in range(len(network)):
        x = run(network, k, x)
    return np.mean(np.argmax(x, axis=1) == test_digits)


plain, plain_peak = train([])
for n in (2, 3, 5):
    start = time.perf_counter()
    network, peak = train(every(n, 10))
    elapsed = time.perf_counter() - start
    print(
        f"every {n}: {accuracy(network):.2%} right, {peak / plain_peak:.2f} of the states, {elapsed:.1f} s"
    )
    for (W, b), (V, c) in zip(network, plain, strict=True):
        assert np.array_equal(W, V)
        assert np.array_equal(b, c)
assert accuracy(plain) > 0.8

# %% [markdown]
# After 120 steps, the networks are equal in every bit. One must see to it, though, when a layer is
# *random*. Dropout that runs again must drop the same units again, or the states that were made the second
# time belong to another network than the loss. The remedy is to note the generator's state before, and to
# set it back:

# %%
rng = np.random.default_rng(0)
before = rng.bit_generator.state
first = rng.random(4) < 0.5
again = rng.random(4) < 0.5
after = rng.bit_generator.state
rng.bit_generator.state = before
replayed = rng.random(4) < 0.5
rng.bit_generator.state = after
print(first, again, replayed)
assert np.array_equal(first, replayed)

# %% [markdown]
# (`tg.checkpoint` does that for every generator that a function reaches.)
#
# ## Better than √L
#
# Cutting once is not the end of it. Instead of recomputing a segment as a whole, treat it like a small
# network of its own, with checkpoints inside. Suppose there is room for $s$ states, that of the input
# included. What is the least number of extra runs, $P(l, s)$, that it takes to reverse $l$ layers? Run $k$
# layers ahead and put a checkpoint there. Reverse the upper $l - k$ with the $s - 1$ slots that are left.
# That frees the slot; reverse the lower $k$ with $s$:
#
# $$P(l, s) = \min_{0 < k < l} \bigl( k + P(l - k, s - 1) + P(k, s) \bigr), \qquad P(1, s) = 0, \qquad
# P(l, 1) = \tfrac{l (l - 1)}{2}.$$


# %%
@cache
def extra_runs(layers, slots):
    if layers == 1:
        return 0
    if slots == 1:
        return layers * (layers - 1) // 2
    return min(
        k + extra_runs(layers - k, slots - 1) + extra_runs(k, slots) for k in range(1, layers)
    )


# %% [markdown]
# Griewank found the closed form in 1992, and it is binomial. If no layer may run ahead more than $r$ times,
# then $s$ slots can reverse $\beta(s, r) = \binom{s + r}{s}$ layers. So take the least $r$ with
# $\beta(s, r) \ge l$, and
#
# $$P(l, s) = r\,l - \binom{s + r}{s + 1}.$$


# %%
def binomial(layers, slots):
    r = next(r for r in range(layers) if comb(slots + r, slots) >= layers)
    return r * layers - (comb(slots + r, slots + 1) if r else 0)


for layers in range(1, 65):
    for slots in range(1, 12):
        assert extra_runs(layers, slots) == binomial(layers, slots)
print("10,000 layers, 10 slots:", binomial(10_000, 10) / 10_000, "extra runs a layer")

# %% [markdown]
# Ten states, for ten thousand layers. With $s = r$, $\beta$ grows as $4^s$: both memory and time grow with
# the *logarithm* of the depth.
#
# ## thriftgrad: a schedule is data
#
# In thriftgrad a strategy such as `every(8)` or `revolve(10)` makes a *schedule*, a list of what to do:
# run, keep, tape, go back, drop. Nothing is computed for that; it is planned on a chain of stages of which
# only the costs are known. One simulator says what a schedule takes, whoever made it.

# %%
chain = tg.memory.homogeneous(6)
schedule = tg.memory.revolve(2)(chain)
print(*schedule, sep=" | ")

# %%
for layers in (10, 33, 64):
    for slots in (2, 3, 5, 8):
        chain = tg.memory.homogeneous(layers)
        found = tg.memory.simulate(tg.memory.revolve(slots)(chain), chain)
        assert found.forwards.sum() == extra_runs(layers, slots)
        assert found.most_states <= slots

# %% [markdown]
# The simulator agrees with our recursion. The binomial schedule keeps states only. Before it can reverse a
# layer it has to run it once more, to have what `pull` needs. Where that is no larger than a state, as with
# tanh, a slot may as well hold a layer that is ready to be reversed: this is `mixed(s)`. Here are the three
# families on 64 equal layers, with everything counted that is held.

# %%
chain = tg.memory.homogeneous(64)
families = {
    "every n-th": [tg.memory.every(n) for n in (1, 2, 3, 4, 6, 8, 10, 12, 16, 22, 32, 64)],
    "binomial": [tg.memory.revolve(s) for s in range(3, 64)],
    "mixed": [tg.memory.mixed(s) for s in range(3, 64)],
}
figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for (name, strategies), style in zip(families.items(), ("o", "-", "-"), strict=True):
    costs = [tg.memory.simulate(strategy(chain), chain) for strategy in strategies]
    ax.plot([c.peak for c in costs], [c.runs.sum() / 64 for c in costs], style, label=name)
ax.set_xlabel("states and tapes at the peak")
ax.set_ylabel("runs a layer")
ax.set_ylim(0.9, 5)
_ = ax.legend()

# %% [markdown]
# The dots end at $2\sqrt{64}$ and one more. The lines go on to the left, into memory where cutting once
# cannot go, and turn up steeply only at the very end. Where there is room for many states, dots and `mixed`
# are one.
#
# ## A budget in bytes
#
# Real layers are not equal. thriftgrad measures each layer's bytes and seconds, and finds the fastest
# schedule that fits into what you say there is. The network of above, as a model:

# %%
rng = np.random.default_rng(0)
layers = []
for W, b in random_network(widths, rng):
    layer = tg.nn.Linear(*W.shape, dtype=np.float64)
    layer.load_state_dict({"weight": W, "bias": b})
    layers += [layer, np.tanh]
model = tg.nn.Sequential(*layers[:-1])
batch = images[:1000], digits[:1000]

# %%
everything = tg.memory.plan(model, *batch, loss=tg.nn.cross_entropy, budget="all")
print(everything)

# %%
budget = int(0.8 * everything.peak_bytes)
plan = tg.memory.plan(model, *batch, loss=tg.nn.cross_entropy, budget=budget)
print(plan)
assert plan.peak_bytes <= budget

# %% [markdown]
# What it predicts is what happens. We carry the plan out with every byte metered, and draw the measured
# line over the prediction:

# %%
with tg.memory.meter() as metered:
    tg.memory.execute(
        plan.schedule, model.stages(), batch[0], lambda z: tg.nn.cross_entropy(z, batch[1])
    )
bytes_held = np.array(metered.during) + sum(plan.chain.fixed.values())
print(f"predicted {plan.peak_bytes:,}, measured {bytes_held.max():,} bytes")
assert abs(bytes_held.max() - plan.peak_bytes) < 0.02 * plan.peak_bytes

# %%
figure, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
_ = tg.plots.memory(plan.simulation.by_kind, budget=budget, measured=bytes_held, axes=ax)

# %% [markdown]
# The gradients are those of our generator:

# %%
network = random_network(widths, np.random.default_rng(0))
parameters = dict(model.named_parameters())
for k, dW, db in checkpointed(network, *batch, every(5, 10), Held(), Counter()):
    weight, bias = parameters[f"{2 * k}.weight"].grad, parameters[f"{2 * k}.bias"].grad
    assert np.max(np.abs(weight - dW)) < 1e-12
    assert np.max(np.abs(bias - db)) < 1e-12

# %% [markdown]
# And in training it is one argument: a budget, or a strategy's name. The weights come out those of the plain
# step in every bit. (Without `memory`, `fit` compiles its step where it can, which rounds in other places.)


# %%
def fitted(memory):
    model.load_state_dict(
        {
            f"{2 * k}.{name}": value
            for k, pair in enumerate(random_network(widths, np.random.default_rng(0)))
            for name, value in zip(("weight", "bias"), pair, strict=True)
        }
    )
    tg.train.fit(
        model,
        (images, digits),
        loss=tg.nn.cross_entropy,
        optimizer=tg.optim.SGD(model.parameters(), lr=0.1),
        epochs=1,
        batch_size=1000,
        memory=memory,
        compile=False,
    )
    return model.state_dict()


without = fitted(None)
for memory in ("every:4", "sqrt", budget):
    arrived = fitted(memory)
    assert all(np.array_equal(arrived[name], without[name]) for name in without)
    print(f"memory={memory!r}: the same weights, bit by bit")

# %% [markdown]
# ## Exercises
#
# Check by `tg.check.gradients(function, args, analytic=yours).raise_if_wrong()`. Solved: a chain of ten
# tanh of one number, keeping every fifth state.


# %%
def chain_of_tanh(x):
    for _ in range(10):
        x = np.tanh(2 * x)
    return x


def chain_by_hand(x):
    kept, g = [], 1.0
    for k in range(10):
        if k % 5 == 0:
            kept.append(x)
        x = np.tanh(2 * x)
    while kept:
        states = [kept.pop()]
        for _ in range(5):
            states.append(np.tanh(2 * states[-1]))
        for y in states[:0:-1]:
            g = g * 2 * (1 - y * y)
    return g


tg.check.gradients(chain_of_tanh, (0.3,), analytic=chain_by_hand).raise_if_wrong()

# %% [markdown]
# **1.** A *residual* network: $x_{k+1} = x_k + \tanh(x_k W_k)$. What does `pull` need now, and what does
# that do to what is held? Write the gradient with checkpoints.


# %%
def residual(weights, x):
    for W in weights:
        x = x + np.tanh(x @ W)
    return np.sum(x**2)


rng = np.random.default_rng(1)
exercise_1 = (residual, ([rng.normal(size=(3, 3)) / 2 for _ in range(4)], rng.normal(size=(5, 3))))

# %% [markdown]
# **2.** One matrix for all layers, as in a recurrent network. Its gradient is a sum over the layers, so it
# is complete only at the very end. What does that mean for updating on the way?


# %%
def recurrent(W, x):
    for _ in range(6):
        x = np.tanh(x @ W)
    return np.sum(x**2)


exercise_2 = (recurrent, (rng.normal(size=(3, 3)), rng.normal(size=(5, 3))))

# %% [markdown]
# **3.** Put checkpoints into the segments of `checkpointed`, by recursion after the formula for $P(l, s)$,
# and count the runs against `extra_runs`.
#
# ```python
# tg.check.gradients(*exercise_1, analytic=yours).raise_if_wrong()
# ```

# %%
for function, args in (exercise_1, exercise_2):
    assert tg.check.gradients(function, args).ok

# %% [markdown]
# *Next: [an autograd in a hundred lines](4_autograd.py).*
