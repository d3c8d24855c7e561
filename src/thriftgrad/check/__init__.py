"""Checks of gradients: against the function's values, and against other libraries."""

from thriftgrad.check.compare import compare
from thriftgrad.check.gradients import gradients
from thriftgrad.check.report import Block, Entry, Finding, Report
from thriftgrad.errors import GradientError

__all__ = ["Block", "Entry", "Finding", "GradientError", "Report", "compare", "gradients"]
