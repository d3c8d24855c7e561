"""Pictures of what happened, by matplotlib, which is imported when the first one is drawn."""

from thriftgrad.plots.confusion import confusion
from thriftgrad.plots.curves import curves
from thriftgrad.plots.memory import memory
from thriftgrad.plots.norms import norms
from thriftgrad.plots.pictures import weights, worst

__all__ = ["confusion", "curves", "memory", "norms", "weights", "worst"]
