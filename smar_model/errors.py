"""The one error that users see without a traceback."""

BAD_INPUT = 2
"""Exit code of `smar` for it."""


class InputError(ValueError):
    """Bad input: its message names the file, the row or setting, and what to do.

    The command line prints the message alone and exits with code 2; nothing has been published.
    """
