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
# # 1. Backpropagation by hand
#
# A network that reads handwritten digits, trained by nothing but the chain rule and NumPy. We go one image
# at a time, so that every formula is about vectors that can be pictured. At the end, thriftgrad does the
# same, and ends up with the same weights.
#
# You need to know what a derivative and a matrix-vector product are. That is all.

# %%
import time
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

import thriftgrad as tg

# %% [markdown]
# ## The digits
#
# MNIST travels with thriftgrad: 60,000 images to learn from, and 10,000 others to be examined on. Each has
# 28 × 28 pixels, from 0 (paper) to 1 (ink), here written one row after the other as a vector of 784
# numbers. We learn from the first 20,000 and take the exam on 5,000, which keeps this page quick.

# %%
(images, labels), (test_images, test_labels) = tg.data.mnist()
images, labels = images[:20_000].astype(np.float64), labels[:20_000]
test_images, test_labels = test_images[:5_000].astype(np.float64), test_labels[:5_000]
print(images.shape, labels[:8])

# %%
figure, axes = plt.subplots(1, 8, figsize=(8, 1.3), layout="constrained")
for image, label, ax in zip(images, labels, axes, strict=False):
    ax.imshow(image.reshape(28, 28), cmap="gray_r")
    ax.set_title(label)
    ax.set_axis_off()

# %% [markdown]
# The network shall answer with ten numbers, one for each digit. What we want of it is 1 in the place of the
# right digit and 0 elsewhere, the row of a unit matrix.

# %%
targets = np.eye(10)[labels]
print(labels[0], targets[0])

# %% [markdown]
# ## Neurons
#
# A neuron adds up its inputs $a_i$ with weights $w_i$, adds a bias $b$, and squashes the sum $z$ into the
# range from 0 to 1:
#
# $$z = \sum_i a_i w_i + b, \qquad \sigma(z) = \frac{1}{1 + e^{-z}}.$$
#
# The bias decides where the neuron starts to fire, and the weights what it fires at. The sigmoid $\sigma$
# is a smooth step. Smooth matters: learning is asking how the answer changes when a weight changes a
# little, and a hard step would say "not at all" nearly everywhere.
#
# We shall need the slope of $\sigma$. Write $\sigma = (1 + e^{-z})^{-1}$, differentiate, and tidy up:
#
# $$\sigma'(z) = \frac{e^{-z}}{(1 + e^{-z})^2} = \sigma(z)\,(1 - \sigma(z)).$$


# %%
def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def sigmoid_slope(z):
    s = sigmoid(z)
    return s * (1 - s)


# %%
z = np.linspace(-8, 8, 200)
figure, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
ax.plot(z, sigmoid(z), label=r"$\sigma(z)$")
ax.plot(z, sigmoid_slope(z), label=r"$\sigma'(z)$")
ax.set_xlabel("z")
_ = ax.legend()

# %% [markdown]
# Look at the lower curve. Its highest point is ¼, and beyond $|z| = 6$ hardly anything is left of it. A
# neuron out there is *saturated*: whatever we do to its weights, its answer stays. This will matter when we
# choose the initial weights.
#
# ## A network
#
# Neurons that look at the same inputs form a layer. Their weights are the columns of a matrix $W$ with a
# row for each input and a column for each neuron, so that a whole layer is
#
# $$z = a W + b, \qquad a' = \sigma(z).$$
#
# Ours has 784 inputs, a layer of 30 neurons, and one of 10. We keep the parameters as a list of pairs
# $(W, b)$.
#
# Weights start as random numbers, for if all were equal, all neurons would learn the same. How large? A sum
# of $n$ random terms of size 1 has the size $\sqrt n$, which for 784 is 28: saturated. Divided by
# $\sqrt n$, the sums come out near 1 whatever the width.


# %%
def random_network(widths, rng):
    return [(rng.normal(size=(n, m)) / np.sqrt(n), rng.normal(size=m)) for n, m in pairwise(widths)]


def feedforward(network, image):
    a = image
    for W, b in network:
        a = sigmoid(a @ W + b)
    return a


# %%
network = random_network([784, 30, 10], np.random.default_rng(0))
print(feedforward(network, images[0]).round(2))

# %% [markdown]
# Ten opinions, and none of them means anything yet. Chance is one in ten:


# %%
def evaluate(network, images, labels):
    right = [
        np.argmax(feedforward(network, image)) == label
        for image, label in zip(images, labels, strict=True)
    ]
    return np.mean(right)


# %%
untrained = evaluate(network, test_images, test_labels)
print(f"{untrained:.1%} right")
assert untrained < 0.3

# %% [markdown]
# ## How wrong is it?
#
# The cost of an answer $a$ where $t$ was wanted is half the squared distance:
#
# $$C = \tfrac12 \sum_j (a_j - t_j)^2, \qquad \frac{\partial C}{\partial a_j} = a_j - t_j.$$
#
# (That is what the half is for.)


# %%
def cost(network, image, target):
    return np.sum((feedforward(network, image) - target) ** 2) / 2


# %% [markdown]
# ## Backwards
#
# There are 23,860 parameters, and we want $\partial C / \partial(\text{each})$. One could nudge every one
# of them in turn and see what the cost does, which takes 23,860 passes through the network. The chain rule
# needs one pass forward and one back.
#
# The idea is to ask the question at the sums $z$. Let $\delta = \partial C/\partial z$ be how much the cost
# feels each sum of a layer.
#
# **At the end.** $C$ depends on $a$, and $a_j = \sigma(z_j)$, each on its own:
#
# $$\delta = (a - t) \odot \sigma'(z). \tag{1}$$
#
# ($\odot$ multiplies entry by entry.)
#
# **One layer down.** Input $a_i$ reaches the cost through all neurons of the layer above, by way of
# $z_j = \sum_i a_i W_{ij} + b_j$. Add up the ways: $\partial C/\partial a_i = \sum_j W_{ij}\,\delta_j$.
# Then through that layer's own sigmoid:
#
# $$\delta^{\text{below}} = (W \delta) \odot \sigma'(z^{\text{below}}). \tag{2}$$
#
# **What we came for.** In $z_j = \sum_i a_i W_{ij} + b_j$, the weight $W_{ij}$ stands beside $a_i$, and the
# bias stands alone:
#
# $$\frac{\partial C}{\partial W_{ij}} = a_i\,\delta_j, \qquad \frac{\partial C}{\partial b_j} = \delta_j.
# \tag{3, 4}$$
#
# Four equations, and that is backpropagation. Going forward we note each layer's input $a$ and sum $z$;
# going back, $\delta$ passes from layer to layer and leaves the gradients behind.


# %%
def backprop(network, image, target):
    inputs, sums = [], []
    a = image
    for W, b in network:
        inputs.append(a)
        sums.append(a @ W + b)
        a = sigmoid(sums[-1])
    gradient = []
    delta = (a - target) * sigmoid_slope(sums[-1])  # (1)
    for layer in reversed(range(len(network))):
        gradient.append((np.outer(inputs[layer], delta), delta))  # (3), (4)
        if layer > 0:
            delta = (network[layer][0] @ delta) * sigmoid_slope(sums[layer - 1])  # (2)
    return gradient[::-1]


# %% [markdown]
# Is it right? Nudge one weight by $h$ to either side and see what the cost does. If `backprop` is right,
# then
#
# $$\frac{C(w + h) - C(w - h)}{2h} \approx \frac{\partial C}{\partial w}.$$

# %%
gradient = backprop(network, images[0], targets[0])
i, j, h = 350, 3, 1e-5
W = network[0][0]
before = W[i, j]
W[i, j] = before + h
above = cost(network, images[0], targets[0])
W[i, j] = before - h
below = cost(network, images[0], targets[0])
W[i, j] = before
print((above - below) / (2 * h), gradient[0][0][i, j])
assert np.isclose((above - below) / (2 * h), gradient[0][0][i, j], rtol=1e-6)

# %% [markdown]
# That is one weight. `tg.check.gradients` does this for the whole network, chooses good steps (lesson 5
# says how), and judges what it finds.

# %%
report = tg.check.gradients(cost, (network, images[0], targets[0]), analytic=backprop)
print(report)
assert report.ok

# %% [markdown]
# ## Learning
#
# The gradient points to where the cost grows. So we take a step the other way. A step for one image would
# be a nervous one, since the next image may want the opposite; so we add up the gradients of a handful of
# images, and step along their mean. `rate` says how far.
#
# Since the handful is drawn at random, its mean is the mean over all images plus some noise. Hence the
# name: stochastic gradient descent.


# %%
def learning_step(network, images, targets, rate, backprop=backprop):
    total = [(np.zeros_like(W), np.zeros_like(b)) for W, b in network]
    for image, target in zip(images, targets, strict=True):
        for (sum_W, sum_b), (dW, db) in zip(total, backprop(network, image, target), strict=True):
            sum_W += dW
            sum_b += db
    step = rate / len(images)
    return [(W - step * dW, b - step * db) for (W, b), (dW, db) in zip(network, total, strict=True)]


# %% [markdown]
# An *epoch* is one walk through all images, in a new order each time.


# %%
def train(network, images, targets, epochs, size, rate, rng):
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images), size):
            batch = order[start : start + size]
            network = learning_step(network, images[batch], targets[batch], rate)
        yield network


# %%
scores = [untrained]
start = time.perf_counter()
rng = np.random.default_rng(1)
for trained in train(network, images, targets, epochs=4, size=10, rate=3.0, rng=rng):
    scores.append(evaluate(trained, test_images, test_labels))
    print(f"epoch {len(scores) - 1}: {scores[-1]:.1%} right, {time.perf_counter() - start:.1f} s")
assert scores[-1] > 0.88

# %%
figure, ax = plt.subplots(figsize=(5, 2.4), layout="constrained")
ax.plot(100 * np.array(scores), "o-")
ax.set_xticks(range(len(scores)))
ax.set_xlabel("epoch")
ax.set_ylabel("right, %")
ax.grid(alpha=0.3)

# %% [markdown]
# About nine in ten digits that it has never seen, from four equations. Here are some that it gets wrong.
# One sympathises with a few.

# %%
answers = np.array([np.argmax(feedforward(trained, image)) for image in test_images])
wrong = np.flatnonzero(answers != test_labels)[:8]
figure, axes = plt.subplots(1, 8, figsize=(8, 1.3), layout="constrained")
for k, ax in zip(wrong, axes, strict=True):
    ax.imshow(test_images[k].reshape(28, 28), cmap="gray_r")
    ax.set_title(f"{test_labels[k]}, said {answers[k]}", fontsize=8)
    ax.set_axis_off()

# %% [markdown]
# What do the thirty neurons look at? A column of the first matrix has a weight for each pixel, so it can be
# shown as an image. Red is ink the neuron likes, blue is ink it does not.

# %%
figure, axes = plt.subplots(3, 10, figsize=(8, 2.6), layout="constrained")
for column, ax in zip(trained[0][0].T, axes.flat, strict=True):
    ax.imshow(column.reshape(28, 28), cmap="RdBu_r", vmin=-0.6, vmax=0.6)
    ax.set_axis_off()

# %% [markdown]
# ## thriftgrad does the same
#
# `cost` above is plain NumPy and knows nothing of derivatives. `tg.grad` makes the function that returns
# them, in the same form as the parameters, a list of pairs:

# %%
by_thriftgrad = tg.grad(cost)
for image, target in zip(images[:100], targets[:100], strict=True):
    mine = backprop(trained, image, target)
    its = by_thriftgrad(trained, image, target)
    for (dW, db), (tg_dW, tg_db) in zip(mine, its, strict=True):
        assert np.max(np.abs(dW - tg_dW)) < 1e-12
        assert np.max(np.abs(db - tg_db)) < 1e-12

# %% [markdown]
# Not one of 2.4 million numbers differs by more than $10^{-12}$. So `learning_step` may as well use it in
# the place of `backprop`. A hundred steps, and the networks are still one and the same:

# %%
mine = its = network
for start in range(0, 1000, 10):
    batch = images[start : start + 10], targets[start : start + 10]
    mine = learning_step(mine, *batch, rate=3.0)
    its = learning_step(its, *batch, rate=3.0, backprop=by_thriftgrad)
differences = [
    np.max(np.abs(p - q)) for a, b in zip(mine, its, strict=True) for p, q in zip(a, b, strict=True)
]
print("largest difference of a weight:", max(differences))
assert max(differences) < 1e-12

# %% [markdown]
# And with thriftgrad's own layers, cost and optimiser. `backward` adds to the gradients that are there,
# just as our loop does, and `step` goes along them:

# %%
model = tg.nn.Sequential(
    tg.nn.Linear(784, 30, dtype=np.float64),
    tg.nn.sigmoid,
    tg.nn.Linear(30, 10, dtype=np.float64),
    tg.nn.sigmoid,
)
(W0, b0), (W1, b1) = network
model.load_state_dict({"0.weight": W0, "0.bias": b0, "2.weight": W1, "2.bias": b1})
optimizer = tg.optim.SGD(model.parameters(), lr=3.0)

for start in range(0, 1000, 10):
    for image, target in zip(images[start : start + 10], targets[start : start + 10], strict=True):
        loss = tg.nn.squared_error(model(image[None]), target[None]) / 10
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %%
state = model.state_dict()
differences = [
    np.max(np.abs(state[f"{2 * layer}.{name}"] - value))
    for layer, pair in enumerate(mine)
    for name, value in zip(("weight", "bias"), pair, strict=True)
]
print("largest difference of a weight:", max(differences))
assert max(differences) < 1e-12

# %% [markdown]
# ## Exercises
#
# Each asks for a gradient by hand, and one call says whether it is right:
#
# ```python
# tg.check.gradients(function, args, analytic=yours).raise_if_wrong()
# ```
#
# `yours` takes the same arguments as the function and returns something shaped like the first of them. Here
# is one that is solved: a single neuron without a bias.


# %%
def neuron(w, inputs, target):
    return (sigmoid(inputs @ w) - target) ** 2 / 2


def neuron_by_hand(w, inputs, target):
    z = inputs @ w
    return (sigmoid(z) - target) * sigmoid_slope(z) * inputs


args = (np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.3, -0.2]), 1.0)
tg.check.gradients(neuron, args, analytic=neuron_by_hand).raise_if_wrong()

# %% [markdown]
# **1.** With the cost $C = -\sum_j \bigl(t_j \log a_j + (1 - t_j) \log(1 - a_j)\bigr)$, equation (1)
# becomes much simpler. Find it, and say why saturated output neurons no longer learn slowly. A smaller
# network than the one above will do to check it.


# %%
def surprise(network, image, target):
    a = feedforward(network, image)
    return -np.sum(target * np.log(a) + (1 - target) * np.log(1 - a))


rng = np.random.default_rng(2)
small = random_network([6, 5, 4, 3], rng)
exercise_1 = (surprise, (small, rng.normal(size=6), np.array([0.0, 1.0, 0.0])))

# %% [markdown]
# ```python
# def yours(network, image, target): ...
#
# tg.check.gradients(*exercise_1, analytic=yours).raise_if_wrong()
# ```
#
# **2.** Let the hidden neurons be $\tanh$ instead of $\sigma$, and the last layer without any squashing.
# Which of the four equations change?


# %%
def tanh_cost(network, image, target):
    *hidden, (W, b) = network
    a = image
    for V, c in hidden:
        a = np.tanh(a @ V + c)
    return np.sum((a @ W + b - target) ** 2) / 2


exercise_2 = (tanh_cost, (small, rng.normal(size=6), np.array([0.0, 1.0, 0.0])))

# %% [markdown]
# ```python
# tg.check.gradients(*exercise_2, analytic=yours).raise_if_wrong()
# ```
#
# **3.** The gradient for the *image*: which pixels should change, and how, for the network to be surer?
# Continue equation (2) down to the input. Then draw it.


# %%
def seen_from_the_image(image, network, target):
    return cost(network, image, target)


exercise_3 = (seen_from_the_image, (rng.normal(size=6), small, np.array([0.0, 1.0, 0.0])))

# %% [markdown]
# ```python
# tg.check.gradients(*exercise_3, analytic=yours).raise_if_wrong()
# ```
#
# thriftgrad can do all three, as it should:

# %%
for function, args in (exercise_1, exercise_2, exercise_3):
    assert tg.check.gradients(function, args).ok

# %% [markdown]
# *Next: [whole mini-batches at once](2_mini_batches.py), which is the same mathematics and much faster.*
