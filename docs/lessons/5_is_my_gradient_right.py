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
# # 5. Is my gradient right?
#
# A wrong gradient seldom crashes. It is a vector of the right shape that points somewhere downhill, and the
# network learns, only worse than it could. That makes gradients the one part of a program that should never
# be trusted unchecked, and luckily they are easy to check: a derivative is a limit of differences, and
# differences need nothing but the function itself.
#
# On this page we build such a check from NumPy, see where it fails itself, and then use it to catch the
# seven mistakes that nearly everyone makes at some time.

# %%
import matplotlib.pyplot as plt
import numpy as np

import thriftgrad as tg

# %% [markdown]
# ## Differences
#
# $$\frac{f(x+h) - f(x)}{h} = f'(x) + \frac{h}{2} f''(x) + \dots \qquad
# \frac{f(x+h) - f(x-h)}{2h} = f'(x) + \frac{h^2}{6} f'''(x) + \dots$$
#
# Taylor's series says how wrong they are: the one-sided difference by something like $h$, the central one,
# in which the even terms cancel, by something like $h^2$. So make $h$ small. How small? Let us try all
# sizes, with a function whose derivative we know.


# %%
def f(x):
    return np.exp(np.sin(3 * x))


def slope(x):
    return 3 * np.cos(3 * x) * np.exp(np.sin(3 * x))


# %%
x = 0.4
h = 10.0 ** np.arange(-16, 0.1, 0.25)
one_sided = (f(x + h) - f(x)) / h
central = (f(x + h) - f(x - h)) / (2 * h)
complex_step = np.imag(f(x + 1j * h)) / h

# %%
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
tiny = 1e-17  # so that an error of exactly 0 has a place on the logarithmic axis
for name, n in (("one-sided", one_sided), ("central", central), ("complex step", complex_step)):
    ax.loglog(h, np.abs(n - slope(x)) / np.abs(slope(x)) + tiny, label=name)
ax.set_xlabel("step h")
ax.set_ylabel("relative error")
_ = ax.legend()

# %% [markdown]
# Read it from the right. The errors fall as Taylor says, with slope 1 and slope 2. Then they *rise*. The
# values of $f$ carry rounding errors of about $\varepsilon = 2 \cdot 10^{-16}$ of their size, the
# difference of two nearly equal values carries the same errors and is much smaller, and dividing by $h$
# blows them up to $\varepsilon / h$. The best step balances the two:
#
# $$h + \frac{\varepsilon}{h} \text{ is least at } h \approx \varepsilon^{1/2} \approx 10^{-8}, \qquad
# h^2 + \frac{\varepsilon}{h} \text{ at } h \approx \varepsilon^{1/3} \approx 10^{-5}.$$
#
# At best one has 8 digits, or 11. And the step is for an $x$ and an $f$ of size 1; each entry of a large
# network may want another. thriftgrad's check takes several steps for each entry, extrapolates them to
# $h = 0$, and estimates how far off the result may be.

# %%
print("best one-sided error:", np.min(np.abs(one_sided - slope(x))))
print("best central error:  ", np.min(np.abs(central - slope(x))))
assert np.min(np.abs(central - slope(x))) < np.min(np.abs(one_sided - slope(x)))

# %% [markdown]
# The third curve does not rise again. It comes from stepping not along the real axis but off it:
#
# $$f(x + ih) = f(x) + ih f'(x) - \frac{h^2}{2} f''(x) - \dots \quad\Rightarrow\quad
# \frac{\operatorname{Im} f(x+ih)}{h} = f'(x) - \frac{h^2}{6} f'''(x) + \dots$$
#
# No difference is taken, so nothing cancels, and $h = 10^{-30}$ is as good as any. This needs an $f$ that
# NumPy can evaluate for complex numbers, and that is smooth there: `np.exp` and `np.sin` are, `np.abs` and
# `np.maximum` are not. Where it works, thriftgrad uses it.

# %%
exact = np.imag(f(x + 1e-30j)) / 1e-30
print(exact, slope(x), tg.grad(f)(x))
assert abs(exact - slope(x)) < 1e-12
assert abs(tg.grad(f)(x) - slope(x)) < 1e-12

# %% [markdown]
# ## How close is close?
#
# Two gradients that differ by 0.001: is that right? If the entries are near 1000, very; if they are near
# 0.001, one is nonsense. So differences are measured by the sizes of what they are differences of,
#
# $$\frac{|a - n|}{|a| + |n|},$$
#
# which is 0 where both agree, and 1 where one is zero, or where the signs are opposite. A right gradient in
# float64 comes out below $10^{-6}$ or so, a wrong one above $10^{-2}$. What lies between deserves a second
# look. Mostly it is a kink, or rounding: when the true derivative is nearly zero, differences are all
# noise, and their relative error says nothing. This is why an estimate of the error of $n$ itself belongs
# into every comparison.


# %%
def relative(a, n):
    return np.abs(a - n) / (np.abs(a) + np.abs(n))


flat = np.pi / 6  # where f has its maximum
n = (f(flat + 1e-5) - f(flat - 1e-5)) / 2e-5
print("analytic", slope(flat), "numeric", n, "relative error", relative(slope(flat), n))

# %% [markdown]
# A relative error of 1, and nothing is wrong: both are zero, as well as each can say it.
#
# ## Kinks
#
# $\max(x, 0)$ has no derivative at 0. Programs need one all the same, and by custom take 0 for that of a
# ReLU. A difference across the kink gives whatever it gives:

# %%
for h in (1e-3, 1e-5):
    print((np.maximum(0 + h, 0) - np.maximum(0 - h, 0)) / (2 * h))

# %% [markdown]
# One half, for any step, against 0. This is no error and must not be reported as one. But a check that
# forgives large differences is not a check either. The way out is to look from each side separately: at a
# kink the slopes on the left and on the right differ, and keep on differing as $h$ shrinks; a wrong
# gradient at a smooth point has equal slopes there, and neither agrees with it.


# %%
def relu_sum(w):
    return np.sum(np.maximum(w, 0))


report = tg.check.gradients(relu_sum, (np.array([1.0, 0.0, -2.0]),))
print(report)
assert report.ok
assert [kink.index for kink in report.blocks[0].kinks] == [(1,)]

# %% [markdown]
# ## Many parameters
#
# Two evaluations for each of 23,860 parameters is a long wait. Along one random direction $v$, all of them
# are tested by two:
#
# $$\frac{f(x + hv) - f(x - hv)}{2h} \approx \sum_i \frac{\partial f}{\partial x_i} v_i.$$
#
# If even a single entry is wrong, the sum is wrong by $v_i$ times that, which is not 0 but by a miracle.
# What is lost is *where* it is wrong. So for large arrays the check takes a few directions and, beside
# them, some entries.
#
# ## Seven mistakes
#
# Now for a patient. Here is a small network with backpropagation by hand, and a place for each of the
# mistakes. Widths are equal so that a transposed matrix still fits, which is when transposing goes
# unnoticed.


# %%
def sigmoid(z):
    return (1 + np.tanh(z / 2)) / 2  # the same curve, and some patients will run far off


def sigmoid_slope(z):
    return sigmoid(z) * (1 - sigmoid(z))


def forward(network, x):
    inputs, sums = [x], []
    for W, b in network:
        sums.append(inputs[-1] @ W + b)
        inputs.append(sigmoid(sums[-1]))
    return inputs, sums


def cost(network, x, y):
    inputs, _ = forward(network, x)
    return np.sum((inputs[-1] - y) ** 2) / (2 * len(x))


# %%
def backprop(network, x, y, mistake="", memory=None):
    inputs, sums = forward(network, x)
    if mistake == "stale":
        inputs, sums = memory.setdefault("forward", (inputs, sums))
    sign = -1 if mistake == "sign" else 1
    upstream = sign * (inputs[-1] - y) / len(x)
    if mistake == "divided twice":
        upstream = upstream / len(x)
    gradient = []
    for layer in reversed(range(len(network))):
        W, _ = network[layer]
        if mistake == "no slope" and layer < len(network) - 1:
            delta = upstream
        elif mistake == "slope of the output":
            delta = upstream * sigmoid_slope(inputs[layer + 1])
        else:
            delta = upstream * sigmoid_slope(sums[layer])
        db = delta.mean(axis=0) if mistake == "bias mean" else delta.sum(axis=0)
        gradient.append((inputs[layer].T @ delta, db))
        upstream = delta @ (W if mistake == "not transposed" else W.T)
    return gradient[::-1]


# %%
rng = np.random.default_rng(0)
network = [(rng.normal(size=(4, 4)), rng.normal(size=4) / 2) for _ in range(3)]
args = network, rng.normal(size=(6, 4)), rng.uniform(size=(6, 4))
print(tg.check.gradients(cost, args, analytic=backprop))
assert tg.check.gradients(cost, args, analytic=backprop).ok

# %% [markdown]
# Healthy. Without a mistake it agrees with thriftgrad's own gradient as well, to the last digits:

# %%
for mine, its in zip(backprop(*args), tg.grad(cost)(*args), strict=True):
    assert max(np.max(np.abs(p - q)) for p, q in zip(mine, its, strict=True)) < 1e-12

# %% [markdown]
# Now plant them, one after the other. `wrong(mistake)` is the sick gradient, `diagnosis` what the check
# makes of it. The check sees numbers only. It never reads the code.


# %%
def wrong(mistake):
    memory = {}
    return lambda network, x, y: backprop(network, x, y, mistake, memory)


def diagnosis(mistake):
    report = tg.check.gradients(cost, args, analytic=wrong(mistake))
    assert not report.ok
    for finding in report.findings:
        print(finding)
    return report.diagnosis


# %% [markdown]
# **1. Divided twice by the batch size.** The mean is in the cost and in the update too
# ([lesson 2](2_mini_batches.py)). All entries are too small by a factor, and with half of the batch it is
# another factor.

# %%
assert diagnosis("divided twice") == "divided twice by the batch size"

# %% [markdown]
# **2. The mean for the bias.** Weights are right, since $A^\top\Delta$ sums over the batch by itself. For
# the bias one has to sum explicitly, and `mean` is typed as quickly as `sum`. The network learns well, with
# lazy biases.

# %%
assert diagnosis("bias mean") == "mean instead of sum over the batch for the bias"

# %% [markdown]
# **3. The forgotten slope.** $\Delta = \Delta^{\text{above}} W^\top$, and $\odot\,\sigma'(Z)$ is missing in
# the hidden layers. All signs are right, since $\sigma' > 0$. That is why it trains at all. For a single
# example, the ratio of wrong to right in a unit is $1/\sigma'(z)$; the check moves a weight, watches the
# ratio run, and recognises the curve.

# %%
assert diagnosis("no slope") == "missing derivative of the activation"

# %% [markdown]
# **4. The slope of the wrong thing.** `sigmoid_slope` wants the sum $z$ and is given the output
# $a = \sigma(z)$. As $a$ lies between 0 and 1, the slope comes out near ¼ for every unit, as if none were
# ever saturated.

# %%
assert diagnosis("slope of the output") == (
    "derivative taken of the activation instead of the pre-activation"
)

# %% [markdown]
# **5. Not transposed.** $\Delta W$ in the place of $\Delta W^\top$. With unequal widths NumPy complains;
# with equal ones the last layer is right, and everything below it is noise.

# %%
assert diagnosis("not transposed") == "transposed weights"

# %% [markdown]
# **6. The stale cache.** What the forward pass has noted is kept, and used again after the weights have
# moved. The first gradient is right! All later ones are not. One call will never show this, so the check
# makes several, elsewhere, and comes back.

# %%
assert diagnosis("stale") == "a stale cache"

# %% [markdown]
# **7. The sign.** Up instead of down. It is found at once in training, unless two of them meet.

# %%
assert diagnosis("sign") == "sign"

# %% [markdown]
# ## Would one have noticed?
#
# Let each of them train a network that tells handwritten threes from fives, and look at the cost.

# %%
(images, labels), _ = tg.data.mnist()
chosen = np.flatnonzero((labels == 3) | (labels == 5))[:1000]
pixels = images[chosen].astype(np.float64).reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)
wanted = np.eye(49)[labels[chosen]]  # output 3 or 5 of 49, so that all widths are equal


def final_cost(gradient):
    rng = np.random.default_rng(0)
    net = [(rng.normal(size=(49, 49)) / 7, np.zeros(49)) for _ in range(3)]
    for _ in range(20):
        for k in range(0, 1000, 20):
            found = gradient(net, pixels[k : k + 20], wanted[k : k + 20])
            net = [(W - dW, b - db) for (W, b), (dW, db) in zip(net, found, strict=True)]
    return cost(net, pixels, wanted)


# %%
mistakes = {
    "right": backprop,
    "1 divided twice": wrong("divided twice"),
    "2 bias mean": wrong("bias mean"),
    "3 no slope": wrong("no slope"),
    "4 slope of the output": wrong("slope of the output"),
    "5 not transposed": wrong("not transposed"),
    "6 stale": wrong("stale"),
    "7 sign": wrong("sign"),
}
costs = {name: final_cost(gradient) for name, gradient in mistakes.items()}
for name, c in costs.items():
    print(f"{name:22} {c:.4f}")

# %%
figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
ax.barh(list(costs), list(costs.values()))
ax.set_xscale("log")
ax.invert_yaxis()
_ = ax.set_xlabel("cost after 20 epochs")

# %% [markdown]
# Three of the patients end where the right gradient does. The forgotten slope may even do better on this
# problem, since leaving out factors of at most ¼ makes for longer steps. Two others look like a learning
# rate that is too small. Training with a gradient is no check of it.

# %%
for patient in ("2 bias mean", "3 no slope", "4 slope of the output"):
    assert costs[patient] < 1.5 * costs["right"]

# %% [markdown]
# ## Exercises
#
# Check by `tg.check.gradients(function, args, analytic=yours).raise_if_wrong()`. This one is solved: the
# norm.


# %%
def norm(v):
    return np.sqrt(np.sum(v**2))


tg.check.gradients(norm, (np.array([3.0, 4.0]),), analytic=lambda v: v / norm(v)).raise_if_wrong()

# %% [markdown]
# **1.** Softplus, $\log(1 + e^z)$, summed over all entries. Its derivative is an old friend.


# %%
def softplus(z):
    return np.sum(np.logaddexp(z, 0))


exercise_1 = (softplus, (rng.normal(size=5),))

# %% [markdown]
# **2.** Standardised inputs: subtract the mean of the batch, divide by its standard deviation, take the
# weighted sum. The mean and the deviation depend on every entry; most people forget one of the two.


# %%
def standardised(x, w):
    return np.sum(w * (x - np.mean(x)) / np.std(x))


exercise_2 = (standardised, (rng.normal(size=6), rng.normal(size=6)))

# %% [markdown]
# **3.** Plant a mistake of your own into `backprop`, an eighth one, and see whether the check finds a name
# for it. If it does not, it still says that the gradient is wrong.
#
# ```python
# tg.check.gradients(*exercise_1, analytic=yours).raise_if_wrong()
# ```

# %%
for function, given in (exercise_1, exercise_2):
    assert tg.check.gradients(function, given).ok

# %% [markdown]
# *Next: [full-batch descent with a line search](6_line_search.py).*
