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
# # 8. Hares and lynxes: code that is not a network
#
# A gradient says how a result depends on what went in, and most code that people would like to ask this is
# no neural network. Here it is a simulation: a plain Python loop of 100,000 NumPy steps that solves a
# differential equation. We fit its parameters to a famous series of measurements, by hand first and then
# with thriftgrad, and do it within 64 MB, which is far less than the tape of such a loop.

# %%
import time
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np

import thriftgrad as tg

# %% [markdown]
# ## The data
#
# For two centuries the Hudson's Bay Company bought furs. How many of the snowshoe hare and of the Canada
# lynx came in each year is the nearest thing to a census of both that there is from that time. These are
# the years 1900 to 1920, in thousands of pelts, as P. Howard tabulates them (*Modeling basics*, 2009).

# %%
HARES = [30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1]
HARES += [40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNXES = [4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4]
LYNXES += [8.0, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
pelts = np.stack([HARES, LYNXES], axis=1)
years = np.arange(1900, 1921)

# %% [markdown]
# ## The model
#
# Lotka and Volterra: hares $x$ multiply and are eaten, lynxes $y$ starve and eat,
#
# $$\dot x = a x - b x y, \qquad \dot y = -c y + d x y .$$
#
# Euler's method walks through time in steps of $h$. Every term has its own animal as a factor, so that a
# step for $u = (x, y)$ is one product:
#
# $$u \leftarrow u \odot (C + G u), \qquad
# C = 1 + h \begin{pmatrix} a \\ -c \end{pmatrix}, \quad
# G = h \begin{pmatrix} 0 & -b \\ d & 0 \end{pmatrix}.$$
#
# (A better method would need fewer steps. Ours stands for the many simulations in which nothing helps.)
#
# The six unknowns are $a, b, c, d$ and the animals of 1900. All are positive, and we do not know their
# scales, so we look for their logarithms $\theta$. The cost is the mean squared difference between the
# logarithms of what the model says and what was counted.


# %%
def coefficients(theta, steps):
    h, p = 20 / steps, np.exp(theta)
    zero = 0 * p[0]
    C = 1 + h * np.stack([p[0], -p[2]])
    G = h * np.stack([np.stack([zero, -p[1]]), np.stack([p[3], zero])])
    return p[4:], C, G


def march(u, C, G, steps):
    for _ in range(steps):
        u = u * (C + G @ u)
    return u


def simulate(theta, steps, march=march):
    u, C, G = coefficients(theta, steps)
    found = [u]
    for _ in range(20):
        u = march(u, C, G, steps // 20)
        found.append(u)
    return np.stack(found)


def cost(theta, steps, march=march):
    return np.mean((np.log(simulate(theta, steps, march)) - np.log(pelts)) ** 2)


# %%
guess = np.log([0.5, 0.03, 0.7, 0.03, 30.0, 4.0])
print("cost of a guess, in 1,000 steps:  ", cost(guess, 1_000))
print("cost of a guess, in 100,000 steps:", cost(guess, 100_000))

# %% [markdown]
# ## Backwards, by hand
#
# Let $\lambda_n$ be how much the cost feels the state $u_n$. One step was $u_{n+1} = u_n \odot s_n$ with
# $s_n = C + G u_n$. Going back, $s_n$ gets $\sigma_n = \lambda_{n+1} \odot u_n$, and $u_n$ gets it in two
# ways:
#
# $$\lambda_n = \lambda_{n+1} \odot s_n + G^\top \sigma_n, \qquad
# \frac{\partial}{\partial C} \mathrel{+}= \sigma_n, \qquad
# \frac{\partial}{\partial G} \mathrel{+}= \sigma_n u_n^\top .$$
#
# At the end of each year the cost itself adds to $\lambda$. This is backpropagation through a network of
# 100,000 layers, all with the same weights. The engineers who steered rockets by it called it the adjoint
# equation, long before there were networks.


# %%
def by_hand(theta, steps):
    u, C, G = coefficients(theta, steps)
    states = np.empty((steps + 1, 2))
    states[0] = u
    for n in range(steps):
        states[n + 1] = u = u * (C + G @ u)
    year = steps // 20
    residual = np.log(states[::year]) - np.log(pelts)
    felt = 2 * residual / residual.size / states[::year]
    dC, dG, lam = np.zeros(2), np.zeros((2, 2)), felt[20]
    for n in reversed(range(steps)):
        u = states[n]
        sigma = lam * u
        dC += sigma
        dG += sigma[:, None] * u
        lam = lam * (C + G @ u) + sigma @ G
        if n % year == 0:
            lam = lam + felt[n // year]
    h, p = 20 / steps, np.exp(theta)
    slopes = [h * dC[0], -h * dG[0, 1], -h * dC[1], h * dG[1, 0], *lam]
    return np.mean(residual**2), p * np.array(slopes)


# %%
report = tg.check.gradients(cost, (guess, 200), analytic=lambda theta, n: by_hand(theta, n)[1])
print(report)
assert report.ok

# %% [markdown]
# It keeps all states, 16 bytes a step, which is little. But it took a page of thought, and every change to
# the model takes another.
#
# ## thriftgrad
#
# `cost` is plain NumPy, so its gradient is one call:

# %%
value, slopes = tg.value_and_grad(cost)(guess, 1_000)
print(value, slopes)
assert np.max(np.abs(slopes - by_hand(guess, 1_000)[1])) < 1e-12 * np.max(np.abs(slopes))

# %% [markdown]
# What does it hold? The tape has three nodes a step, each with its arrays and with what Python needs to
# keep them. It grows with the loop:


# %%
def megabytes(function, *args):
    tracemalloc.start()
    result = function(*args)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6, result


gradient = tg.value_and_grad(cost)
taped = {steps: megabytes(gradient, guess, steps)[0] for steps in (1_000, 2_000, 4_000)}
for steps, peak in taped.items():
    print(f"{steps:6} steps: {peak:5.2f} MB")
each = (taped[4_000] - taped[1_000]) / 3_000
print(f"100,000 steps would take about {100_000 * each:.0f} MB")
assert 100_000 * each > 64

# %% [markdown]
# ## Checkpoints
#
# The way out is to forget, and to compute again. `tg.checkpoint(f)` is a function that does what `f` does
# and keeps only what went in. When the way back reaches it, `f` runs again, this time with a tape, which is
# used at once and dropped. Cut the loop into segments, and the tape of only one of them is ever there:


# %%
def in_segments(length):
    segment = tg.checkpoint(lambda u, C, G: march(u, C, G, length))

    def march_thriftily(u, C, G, steps):
        for _ in range(steps // length):
            u = segment(u, C, G)
        return u

    return march_thriftily


# %% [markdown]
# `simulate` takes the way of marching as an argument; nothing else changes. How long should a segment be?
# Short ones are many, each with its inputs to keep; long ones have long tapes. With $N$ steps in segments
# of $m$, about $\alpha N / m + \beta m$ bytes are held, which is least at $m = \sqrt{\alpha N / \beta}$:
# the square root that appears whenever one cuts once ([lesson 3](3_checkpointing.py)). Measured, for 2,000
# steps, 100 a year:

# %%
lengths = [1, 2, 5, 10, 25, 50, 100]
peaks = [megabytes(gradient, guess, 2_000, in_segments(m))[0] for m in lengths]

# %%
figure, ax = plt.subplots(figsize=(5, 2.6), layout="constrained")
ax.loglog(lengths, peaks, "o-", label="checkpoints")
ax.axhline(taped[2_000], color="gray", linestyle="--", label="the whole tape")
ax.set_xlabel("steps in a segment")
ax.set_ylabel("peak, MB")
_ = ax.legend()

# %% [markdown]
# At the left end, each step has a checkpoint of its own, which takes more than the tape that it saves.
#
# ## The fit
#
# In 1,000 steps the simulation is coarse but quick, so the search begins there. BFGS is a Newton method
# that learns the curvature from the gradients it meets: after each step $s$, over which the gradient
# changed by $y$, the estimate $H$ of the inverse Hessian is amended so that $Hy = s$.


# %%
def bfgs(function, x, steps=60):
    value, g = function(x)
    H = np.eye(len(x)) / (10 * np.linalg.norm(g))
    for _ in range(steps):
        step = -H @ g
        while not (found := function(x + step))[0] <= value + 1e-4 * step @ g:
            step = step / 2  # Armijo's condition, as in lesson 6; a NaN does not meet it either
        y = found[1] - g
        r = 1 / (step @ y)
        A = np.eye(len(x)) - r * np.outer(step, y)
        H = A @ H @ A.T + r * np.outer(step, step)
        x, (value, g) = x + step, found
        if np.linalg.norm(g) < 1e-7:
            break
    return x, H, value


# %%
start = time.perf_counter()
coarse, H, value = bfgs(lambda theta: gradient(theta, 1_000), guess)
print(f"cost {value:.5f} after {time.perf_counter() - start:.1f} s")
np.set_printoptions(suppress=True, precision=4)
print("a, b, c, d, hares, lynxes:", np.exp(coarse))

# %% [markdown]
# Now the real thing: the gradient through 100,000 steps, with its memory measured. (To note every
# allocation slows Python down several times, which makes this the slowest line of the page.)

# %%
start = time.perf_counter()
peak, (value, slopes) = megabytes(gradient, coarse, 100_000, in_segments(100))
print(f"peak {peak:.1f} MB, {time.perf_counter() - start:.0f} s with every allocation noted")
assert peak < 64

# %%
value_by_hand, slopes_by_hand = by_hand(coarse, 100_000)
print("by thriftgrad:", slopes)
print("by hand:      ", slopes_by_hand)
assert abs(value - value_by_hand) < 1e-12
assert np.max(np.abs(slopes - slopes_by_hand)) < 1e-12 * np.max(np.abs(slopes))

# %% [markdown]
# It is the same, to twelve digits, and it is not zero: the coarse simulation was wrong by a little, and has
# bent the parameters to make up for it. But its curvature is about right. One Newton step with the $H$ of
# the coarse search and the slopes of the fine one takes most of that away.

# %%
fine = coarse - H @ slopes
value_there, slopes_there = by_hand(fine, 100_000)
print(f"cost {value:.5f} -> {value_there:.5f}")
print(f"norm of the gradient {np.linalg.norm(slopes):.4f} -> {np.linalg.norm(slopes_there):.4f}")
print("a, b, c, d, hares, lynxes:", np.exp(fine))
assert value_there < value
assert np.linalg.norm(slopes_there) < np.linalg.norm(slopes) / 3

# %%
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
u, C, G = coefficients(fine, 100_000)
weeks = [u]
for _ in range(20 * 50):
    weeks.append(march(weeks[-1], C, G, 100))
for k, (name, colour) in enumerate((("hares", "tab:brown"), ("lynxes", "tab:blue"))):
    ax.plot(1900 + np.arange(1001) / 50, np.array(weeks)[:, k], color=colour, label=name)
    ax.plot(years, pelts[:, k], "o", color=colour)
ax.set_ylabel("thousands of pelts")
ax.set_xticks(range(1900, 1921, 4))
_ = ax.legend()

# %% [markdown]
# Lines are the model, dots the furs. The lynxes follow the hares by a year or two, in a circle of ten
# years. Two equations explain that much, and do not explain the rest.
#
# ## What it costs in time
#
# With one level of checkpoints, everything is computed twice, and the way back once. In microseconds a
# step:


# %%
def microseconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return 1e6 * (time.perf_counter() - start) / args[1]


print(f"the loop itself           {microseconds(cost, fine, 4_000):6.1f}")
print(f"gradient, by hand         {microseconds(by_hand, fine, 4_000):6.1f}")
print(f"gradient, one tape        {microseconds(gradient, fine, 4_000):6.1f}")
print(f"gradient, in segments     {microseconds(gradient, fine, 4_000, in_segments(100)):6.1f}")

# %% [markdown]
# Checkpoints cost less than one thinks: what is forgotten need not be noted down with care the first time,
# and a short tape stays in the processor's caches. The gradient itself costs a good deal more than the
# loop, for with two numbers in an array it is Python that takes the time and not arithmetic. On larger
# arrays this evens out.
#
# ## Exercises
#
# Check by `tg.check.gradients(function, args, analytic=yours).raise_if_wrong()`. Solved: one step of
# Euler's method for $\dot u = -k u$, as a function of $k$; the chain rule through $N$ of them is
# $\partial u_N/\partial k = -N h\,(1 - kh)^{N-1} u_0$.


# %%
def decay(k):
    u = 2.0
    for _ in range(50):
        u = u - 0.1 * k * u
    return u


tg.check.gradients(
    decay, (0.7,), analytic=lambda k: -50 * 0.1 * (1 - 0.1 * k) ** 49 * 2.0
).raise_if_wrong()

# %% [markdown]
# **1.** The logistic equation, $\dot u = r u (1 - u)$, in 100 steps: the gradient in $(r, u_0)$, by an
# adjoint loop of your own.


# %%
def logistic(p):
    r, u = p[0], p[1]
    for _ in range(100):
        u = u + 0.1 * r * u * (1 - u)
    return u


exercise_1 = (logistic, (np.array([0.6, 0.05]),))

# %% [markdown]
# **2.** A pendulum, $\ddot\varphi = -\omega^2 \sin\varphi$, by the symplectic Euler method: where it is
# after 100 steps, as a function of $\omega$ and of the initial angle. Mind the order of the two updates on
# the way back.


# %%
def pendulum(p):
    omega, angle = p[0], p[1]
    speed = 0.0
    for _ in range(100):
        speed = speed - 0.05 * omega**2 * np.sin(angle)
        angle = angle + 0.05 * speed
    return angle


exercise_2 = (pendulum, (np.array([1.5, 0.8]),))

# %% [markdown]
# **3.** Heun's method instead of Euler's in `march`, with far fewer steps. thriftgrad needs no change;
# `by_hand` does. Or checkpoint whole years as well, each made of checkpointed segments: what does this do
# to the peak, what to the time?
#
# ```python
# tg.check.gradients(*exercise_1, analytic=yours).raise_if_wrong()
# ```

# %%
for function, args in (exercise_1, exercise_2):
    assert tg.check.gradients(function, args).ok

# %% [markdown]
# *Back to [the lessons](README.md).*
