"""Errors with a message for the user."""


class StudioError(Exception):
    """A failure; its message says in one sentence what happened, why, and what to do."""


class InputError(StudioError, ValueError):
    """An input that cannot be used: a file, a setting or a name."""
