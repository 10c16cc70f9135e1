"""What can stop a run: a mistake of the user, numbers that are not finite, a stale engine, or a disk that is full."""


class UsageError(ValueError):
    """A run cannot start as asked; the message is one sentence naming the thing and its valid range."""


class DivergenceError(ArithmeticError):
    """A loss or a gradient is not finite; the message names the step and the last checkpoint is intact."""


class SyncError(RuntimeError):
    """The sampling engine does not compute with the weights that are trained; the last checkpoint is intact."""


class StorageError(RuntimeError):
    """Something could not be written in the middle of a run; the last checkpoint is intact."""
