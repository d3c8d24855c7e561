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
# # 4. An autograd in a hundred lines
#
# Deriving each network's gradient by hand gets old. But what did we do, in every derivation? For each
# elementary step we knew how a gradient passes back through it, and we chained these, last step first. A
# program can do the chaining. All it has to know is what was computed from what.
#
# So let every value remember how it was made. On this page that becomes a small library, with which we
# train a network; then we look at where its simplest form goes wrong, and at how thriftgrad goes about it.

# %%
import sys
import time
import tracemalloc

import numpy as np

import thriftgrad as tg

# %% [markdown]
# ## Nodes
#
# A node holds a value, the gradient of the final result with respect to it, once known, and how it was
# made: the nodes it was computed from, its *parents*, and a function `pull` that takes the gradient at this
# node and returns what part of it each parent gets.


# %%
class Node:
    def __init__(self, value, parents=(), pull=None):
        self.value, self.grad = np.asarray(value), 0.0
        self.parents, self.pull = parents, pull

    def __add__(self, other):
        return add(self, other)

    def __getitem__(self, index):
        return select(self, index)


# %% [markdown]
# ## Steps
#
# Each elementary step computes a value and says how to go back. Let $g$ be the gradient at the result.
#
# **Addition.** If $a$ grows by a little, so does $a + b$. Both get $g$.


# %%
def add(a, b):
    if a.value.shape != b.value.shape:
        raise ValueError(f"add: shapes {a.value.shape} and {b.value.shape} differ")
    return Node(a.value + b.value, (a, b), lambda g: (g, g))


# %% [markdown]
# **Selection.** $a[i]$ passes $g$ to the entries that were selected, and nothing to the others. An entry
# that was selected twice gets two contributions, hence `np.add.at`: the tempting `part[index] = g` would
# keep one of them.


# %%
def select(a, index):
    def pull(g):
        part = np.zeros_like(a.value)
        np.add.at(part, index, g)
        return (part,)

    return Node(a.value[index], (a,), pull)


# %% [markdown]
# **Affine maps.** $Y = XW + b$. From $dY = dX\,W + X\,dW + db$ one reads off
#
# $$X \leftarrow g W^\top, \qquad W \leftarrow X^\top g, \qquad b \leftarrow \sum_{\text{rows}} g .$$


# %%
def affine(x, W, b):
    return Node(
        x.value @ W.value + b.value,
        (x, W, b),
        lambda g: (g @ W.value.T, x.value.T @ g, g.sum(axis=0)),
    )


# %% [markdown]
# **ReLU** lets through what is positive, and its gradient likewise.


# %%
def relu(x):
    return Node(np.maximum(x.value, 0), (x,), lambda g: (g * (x.value > 0),))


# %% [markdown]
# **tanh.** Written as in a textbook, $(e^z - e^{-z}) / (e^z + e^{-z})$, it is infinity over infinity from
# $z = 710$ on, and near 0 it subtracts two numbers that are nearly equal. Divide by the larger exponential,
# and use `expm1`, which is $e^x - 1$ without the loss:
#
# $$\tanh z = \operatorname{sign}(z)\; \frac{1 - e^{-2|z|}}{1 + e^{-2|z|}}, \qquad \tanh' = 1 - \tanh^2 .$$


# %%
def tanh_value(z):
    return -np.sign(z) * np.expm1(-2 * np.abs(z)) / (1 + np.exp(-2 * np.abs(z)))


def tanh(x):
    t = tanh_value(x.value)
    return Node(t, (x,), lambda g: (g * (1 - t * t),))


# %%
z = np.array([1e-12, 0.5, 800.0])
with np.errstate(over="ignore", invalid="ignore"):
    print("textbook:", (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)))
print("stable:  ", tanh_value(z))
assert np.allclose(tanh_value(z), np.tanh(z), rtol=1e-14, atol=0)

# %% [markdown]
# **Log-likelihood.** Scores $z$ become probabilities by softmax, and the cost is minus the mean logarithm
# of the probability of the right class $y$:
#
# $$C = \frac1B \sum_k \Bigl(\log \sum_j e^{z_{kj}} - z_{k y_k}\Bigr), \qquad
# \frac{\partial C}{\partial z_{kj}} = \frac1B \bigl(p_{kj} - [j = y_k]\bigr).$$
#
# Probability minus wish: hardly any formula in this field is nicer. The largest score of a row is
# subtracted first, which changes nothing, but that no exponential overflows.


# %%
def negative_log_likelihood(scores, labels):
    shifted = scores.value - scores.value.max(axis=1, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(axis=1, keepdims=True)
    p /= total
    rows = np.arange(len(labels))

    def pull(g):
        wish = np.zeros_like(p)
        wish[rows, labels] = 1
        return (g * (p - wish) / len(labels),)

    return Node(np.mean(np.log(total[:, 0]) - shifted[rows, labels]), (scores,), pull)


# %% [markdown]
# ## Back
#
# The simplest way to go back is recursion: add what has arrived to this node's gradient, ask `pull` for the
# parents' parts, and pass them on.


# %%
def backward(node, g=1.0):
    node.grad = node.grad + g
    if node.pull:
        for parent, part in zip(node.parents, node.pull(g), strict=True):
            backward(parent, part)


# %% [markdown]
# This is all. `gradients` wraps it so that it can be checked like any other: it takes a function of nodes,
# and returns one that gives gradients as arrays. We check every step, all at once.


# %%
def gradients(function):
    def of(*arrays):
        nodes = [Node(array) for array in arrays]
        backward(function(*nodes))
        return tuple(node.grad for node in nodes)

    return of


def every_step(x, W, b):
    h = relu(affine(x, W, b)) + tanh(affine(x, W, b))
    return negative_log_likelihood(h[[0, 2, 2, 1]], np.array([0, 1, 2, 0]))


def its_value(*arrays):
    return float(every_step(*(Node(array) for array in arrays)).value)


rng = np.random.default_rng(0)
args = rng.normal(size=(3, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
report = tg.check.gradients(its_value, args, argnums=(0, 1, 2), analytic=gradients(every_step))
print(report)
assert report.ok

# %% [markdown]
# ## Modules
#
# A network is made of parts that have parameters. A module finds them among its attributes, and in the
# modules among them. (thriftgrad's do the same.)


# %%
class Module:
    def parameters(self):
        found = []
        for value in vars(self).values():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, Node):
                    found.append(each)
                elif isinstance(each, Module):
                    found.extend(each.parameters())
        return found


# %% [markdown]
# Initial weights: uniform in $\pm\sqrt{6/(n+m)}$ for $n$ inputs and $m$ outputs, by Glorot and Bengio,
# keeps the size of what flows forward and back; biases start at zero.


# %%
def glorot(n, m, rng):
    limit = np.sqrt(6 / (n + m))
    return rng.uniform(-limit, limit, (n, m))


class Linear(Module):
    def __init__(self, n, m, rng):
        self.W, self.b = Node(glorot(n, m, rng)), Node(np.zeros(m))

    def __call__(self, x):
        return affine(x, self.W, self.b)


class Sequential(Module):
    def __init__(self, *layers):
        self.layers = list(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


# %% [markdown]
# ## Descent with momentum, in mini-batches
#
# $v \leftarrow \mu v + g$ and $p \leftarrow p - \eta v$. The velocity $v$ remembers past gradients: what
# they agree on adds up, what they quarrel about cancels.


# %%
class SGD:
    def __init__(self, parameters, rate, momentum):
        self.parameters, self.rate, self.momentum = parameters, rate, momentum
        self.velocities = [np.zeros_like(p.value) for p in parameters]

    def step(self):
        for k, p in enumerate(self.parameters):
            self.velocities[k] = self.momentum * self.velocities[k] + p.grad
            p.value = p.value - self.rate * self.velocities[k]
            p.grad = 0.0


def mini_batches(x, y, size, rng):
    order = rng.permutation(len(x))
    for k in range(0, len(x), size):
        yield x[order[k : k + size]], y[order[k : k + size]]


# %% [markdown]
# That makes about a hundred lines, and they train a network:

# %%
(images, labels), (test_images, test_labels) = tg.data.mnist()
x, y = images[:10_000].astype(np.float64), labels[:10_000]

rng = np.random.default_rng(0)
model = Sequential(Linear(784, 64, rng), relu, Linear(64, 32, rng), tanh, Linear(32, 10, rng))
initial = [p.value for p in model.parameters()]
optimizer = SGD(model.parameters(), rate=0.05, momentum=0.9)

# %%
rng = np.random.default_rng(1)
start = time.perf_counter()
for epoch in range(3):
    for x_batch, y_batch in mini_batches(x, y, 64, rng):
        loss = negative_log_likelihood(model(Node(x_batch)), y_batch)
        backward(loss)
        optimizer.step()
    answers = np.argmax(model(Node(test_images.astype(np.float64))).value, axis=1)
    accuracy = np.mean(answers == test_labels)
    print(f"epoch {epoch + 1}: {accuracy:.1%} right, {time.perf_counter() - start:.1f} s")
assert accuracy > 0.9

# %% [markdown]
# ## Where the simple recursion goes wrong
#
# Ours was right because it passes on, at each visit, only what has just arrived. Two shorter forms are
# often seen. One *sets* the gradient instead of adding to it. The other passes on the node's whole
# gradient, `node.grad`, at each visit. Both are right as long as every value is used once.


# %%
def backward_that_sets(node, g=1.0):
    node.grad = g
    if node.pull:
        for parent, part in zip(node.parents, node.pull(g), strict=True):
            backward_that_sets(parent, part)


def backward_that_repeats(node, g=1.0):
    node.grad = node.grad + g
    if node.pull:
        for parent, part in zip(node.parents, node.pull(node.grad), strict=True):
            backward_that_repeats(parent, part)


def fourfold(x):
    y = x + x
    return y + y


for method in (backward, backward_that_sets, backward_that_repeats):
    leaf = Node(3.0)
    method(fourfold(leaf))
    print(f"{method.__name__:22} says the slope of 4x is {leaf.grad}")

# %% [markdown]
# The first is right, and pays for it: it walks every *path* from the result to the leaf. Each doubling
# doubles the paths.

# %%
visits = 0


def counting_backward(node, g=1.0):
    global visits
    visits += 1
    node.grad = node.grad + g
    if node.pull:
        for parent, part in zip(node.parents, node.pull(g), strict=True):
            counting_backward(parent, part)


for doublings in (4, 8, 12, 16):
    leaf = node = Node(1.0)
    for _ in range(doublings):
        node = node + node
    visits = 0
    counting_backward(node)
    print(f"{doublings:2} additions: {visits:6} visits")
    assert visits == 2 ** (doublings + 1) - 1
    assert leaf.grad == 2**doublings

# %% [markdown]
# Sixty additions would keep it busy for longer than the universe has been there. And there is a second
# cliff. A recursion goes as deep as the computation is long, and Python's stack is not:

# %%
leaf = node = Node(1.0)
for _ in range(5_000):
    node = node + leaf
try:
    backward(node)
    raise AssertionError("unexpected: the stack is deeper than that")
except RecursionError as error:
    print(f"a sum of 5,000 terms, with a limit of {sys.getrecursionlimit()}:", error)

# %% [markdown]
# ## The right order
#
# Both go away with one thought: pass a node's gradient on only when it is *complete*, that is, after all
# nodes that were computed from it. Then each node is visited once. Such an order is easy to have: a node is
# always made after its parents. Number the nodes as they are made, and go through them from the highest
# number to the lowest. No recursion; no search for an order.


# %%
class Numbered(Node):
    made = 0

    def __init__(self, value, parents=(), pull=None):
        super().__init__(value, parents, pull)
        Numbered.made += 1
        self.number = Numbered.made


def numbered_add(a, b):
    return Numbered(a.value + b.value, (a, b), lambda g: (g, g))


def backward_in_order(result):
    nodes, waiting = {result}, [result]
    while waiting:
        for parent in waiting.pop().parents:
            if parent not in nodes:
                nodes.add(parent)
                waiting.append(parent)
    result.grad = 1.0
    for node in sorted(nodes, key=lambda node: -node.number):
        if node.pull:
            for parent, part in zip(node.parents, node.pull(node.grad), strict=True):
                parent.grad = parent.grad + part


# %%
leaf = node = Numbered(1.0)
for _ in range(60):
    node = numbered_add(node, node)
backward_in_order(node)
print("sixty doublings:", leaf.grad)
assert leaf.grad == 2.0**60

leaf = node = Numbered(1.0)
for _ in range(5_000):
    node = numbered_add(node, leaf)
backward_in_order(node)
print("a sum of 5,001 terms:", leaf.grad)
assert leaf.grad == 5_001

# %% [markdown]
# ## thriftgrad's tape
#
# This is how thriftgrad goes back: numbers, from high to low. Here are our two cliffs, the second one
# twenty times as high. The code is plain Python on a plain number:


# %%
def doubled(x, times):
    for _ in range(times):
        x = x + x
    return x


def added(x, times):
    total = x
    for _ in range(times):
        total = total + x
    return total


assert tg.grad(doubled)(1.0, 60) == 2.0**60
assert tg.grad(added)(1.0, 100_000) == 100_001

# %% [markdown]
# The other difference is in what is kept. Our nodes hold every value that was ever computed, needed or not.
# A thriftgrad node knows its parents but not its value; it holds what its rule asked for, and adding asks
# for nothing. On the way back, each node lets go of that as soon as it has been passed.


# %%
def held(build):
    tracemalloc.start()
    kept = build(np.ones(10_000))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return kept, size


def ours(array):
    node, one = Node(array), Node(np.ones_like(array))
    for _ in range(100):
        node = node + one
    return node


def thriftgrads(array):
    t, one = tg.Parameter(array), np.ones_like(array)
    for _ in range(100):
        t = t + one
    return t


for build in (ours, thriftgrads):
    _, size = held(build)
    print(f"{build.__name__:12} {size / 80_000:6.1f} arrays held after 100 additions")
assert held(ours)[1] > 10 * held(thriftgrads)[1]

# %% [markdown]
# Now the network, with thriftgrad's layers and optimiser, from the same initial weights and with the same
# batches. It arrives at the same place.

# %%
theirs = tg.nn.Sequential(
    tg.nn.Linear(784, 64, dtype=np.float64),
    tg.nn.relu,
    tg.nn.Linear(64, 32, dtype=np.float64),
    np.tanh,
    tg.nn.Linear(32, 10, dtype=np.float64),
)
for parameter, value in zip(theirs.parameters(), initial, strict=True):
    parameter.value[...] = value
its_optimizer = tg.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)

# %%
rng = np.random.default_rng(1)
for _ in range(3):
    for x_batch, y_batch in mini_batches(x, y, 64, rng):
        tg.nn.cross_entropy(theirs(x_batch), y_batch).backward()
        its_optimizer.step()
        its_optimizer.zero_grad()

# %%
differences = [
    np.max(np.abs(mine.value - its.value))
    for mine, its in zip(model.parameters(), theirs.parameters(), strict=True)
]
print(f"after {its_optimizer.steps} steps, weights differ by", max(differences))
assert max(differences) < 1e-12

# %% [markdown]
# ## Exercises
#
# Add steps to the little library, and check them by one call. `function` is what it should compute, in
# plain NumPy; `yours` is the same, built from your nodes:
#
# ```python
# tg.check.gradients(function, args, argnums=(0, 1), analytic=gradients(yours)).raise_if_wrong()
# ```
#
# Solved: the sum of all entries, of a sum.


# %%
def total(a):
    return Node(a.value.sum(), (a,), lambda g: (np.full_like(a.value, g),))


def sum_of_both(a, b):
    return np.sum(a + b)


two = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
tg.check.gradients(
    sum_of_both, two, argnums=(0, 1), analytic=gradients(lambda a, b: total(a + b))
).raise_if_wrong()

# %% [markdown]
# **1.** Multiplication, entry by entry. Try it on $\sum ab^2$, where $b$ is used twice.


# %%
def product(a, b):
    return np.sum(a * b * b)


exercise_1 = (product, two)

# %% [markdown]
# **2.** Addition with broadcasting, so that a row may be added to a matrix: what was copied forward must be
# summed on the way back, or the gradient has the wrong shape.


# %%
def broadcast(a, b):
    return np.sum(np.tanh(a + b))


exercise_2 = (broadcast, (rng.normal(size=(3, 2)), rng.normal(size=2)))

# %% [markdown]
# **3.** Layer normalisation: subtract each row's mean and divide by its standard deviation. Build it from
# smaller steps, or as one step with a `pull` of its own; the second is shorter when it runs, the first is
# shorter to get right.


# %%
def normalised(a, b):
    centred = a - np.mean(a, axis=1, keepdims=True)
    return np.sum(b * centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True)))


exercise_3 = (normalised, (rng.normal(size=(3, 4)), rng.normal(size=(3, 4))))

# %%
for function, args in (exercise_1, exercise_2, exercise_3):
    assert tg.check.gradients(function, args, argnums=(0, 1)).ok

# %% [markdown]
# *Next: [is my gradient right?](5_is_my_gradient_right.py)*
