"""Data sets for training: the packaged MNIST, files of four formats, and mini-batches.

train, test = tg.data.mnist()
for x, y in tg.data.batches(*train, size=128, rng=0):
    ...
"""

from thriftgrad.data.batches import Batches, batches
from thriftgrad.data.dataset import Dataset, Split, one_hot
from thriftgrad.data.files import load
from thriftgrad.data.mnist import mnist

__all__ = ["Batches", "Dataset", "Split", "batches", "load", "mnist", "one_hot"]
