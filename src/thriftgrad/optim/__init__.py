"""Optimisers: pure update rules, and the small objects that apply them to parameters in place."""

from thriftgrad.optim import schedules
from thriftgrad.optim.adam import Adam, AdamW
from thriftgrad.optim.base import Optimizer
from thriftgrad.optim.clip import clip_by_norm
from thriftgrad.optim.full_batch import FullBatch
from thriftgrad.optim.line_search import LineSearch
from thriftgrad.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "FullBatch",
    "LineSearch",
    "Optimizer",
    "clip_by_norm",
    "schedules",
]
