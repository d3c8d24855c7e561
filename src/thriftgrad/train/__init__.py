"""Training: the loop, its history, and snapshots to resume from.

history = tg.train.fit(model, train, loss=tg.nn.cross_entropy,
                       optimizer=tg.optim.Adam(model.parameters(), lr=1e-3), epochs=5)
"""

from thriftgrad.train.callbacks import Callback, MetricsFile, State
from thriftgrad.train.evaluate import Scores, evaluate, predict
from thriftgrad.train.fit import fit
from thriftgrad.train.history import Epoch, History
from thriftgrad.train.live import Live
from thriftgrad.train.norms import Norms
from thriftgrad.train.snapshot import load, save
from thriftgrad.train.tensorboard import TensorBoard

__all__ = [
    "Callback",
    "Epoch",
    "History",
    "Live",
    "MetricsFile",
    "Norms",
    "Scores",
    "State",
    "TensorBoard",
    "evaluate",
    "fit",
    "load",
    "predict",
    "save",
]
