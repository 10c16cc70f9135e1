"""What stops a simulation: a mistake of the user."""


class UsageError(ValueError):
    """A simulation cannot start as asked; the message is one sentence naming the thing and its valid range."""
