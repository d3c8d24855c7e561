"""Every exception that thriftgrad raises on its own account.

Each derives from `ThriftgradError` and from the built-in class that a NumPy user would expect, so
that `except TypeError` keeps meaning what it says. A message states what was given, what was
expected, and what to do.
"""


class ThriftgradError(Exception):
    """Base of all thriftgrad errors: catch this to catch them all."""


class NoRuleError(ThriftgradError, TypeError):
    """A NumPy function, or one of its keywords, that thriftgrad cannot differentiate."""


class DetachError(ThriftgradError, TypeError):
    """A coercion that would cut a tensor off from its gradient without saying so."""


class InPlaceError(ThriftgradError, TypeError):
    """A write into a tensor, which would change a value that a derivative still needs."""


class DifferentiationError(ThriftgradError, TypeError):
    """A derivative asked for where there is none: an integer argument, a non-scalar output."""


class FreedTapeError(ThriftgradError, RuntimeError):
    """A second backward pass over a tape whose residuals the first one has released."""


class GradientError(ThriftgradError, AssertionError):
    """A gradient that is not the derivative of the function's values."""


class MissingExtraError(ThriftgradError, ImportError):
    """A library that only an extra of thriftgrad brings, and that is not installed."""


class DataError(ThriftgradError, ValueError):
    """A data file or data array that is not what it should be."""


class SnapshotError(ThriftgradError, ValueError):
    """A saved model or training state that cannot be read or does not fit."""


class ConfigError(ThriftgradError, ValueError):
    """An option or argument with a value that makes no sense."""


class NonFiniteError(ThriftgradError, ArithmeticError):
    """A loss or gradient that turned NaN or infinite during training."""


class LineSearchError(ThriftgradError, ArithmeticError):
    """A line search that found no step with a sufficient decrease."""


class BudgetError(ThriftgradError, MemoryError):
    """A memory budget that no schedule can keep to."""

    def __init__(self, message: str, *, least: int | None = None) -> None:
        super().__init__(message)
        self.least = least
        """The fewest bytes that suffice, where they are known."""


class ScheduleError(ThriftgradError, ValueError):
    """A schedule that cannot be carried out: an action uses what is not there."""


class ReplayError(ThriftgradError, RuntimeError):
    """A checkpointed function that did not compute the same again."""


class SpillError(ThriftgradError, OSError):
    """An activation on disk that could not be written, or is not what was written."""


class RecordError(ThriftgradError, TypeError):
    """A function that cannot be recorded: what it does depends on the entries of its arrays."""
