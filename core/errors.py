"""What may go wrong, told in one sentence for the person at the keyboard."""


class StudioError(Exception):
    """A failure whose message is one clear sentence: what happened, why, and what to do."""


class InputError(StudioError, ValueError):
    """What was given cannot be used: a file, a setting or a name."""
