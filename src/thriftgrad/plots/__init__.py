"""Pictures of what happened, by matplotlib, which is imported when the first one is drawn."""

from thriftgrad.plots.curves import curves

__all__ = ["curves"]
