"""What users see without a traceback: bad input, a service that is away, and that there is nothing to do."""

from smar_model.url_secrets import mask_secrets

BAD_INPUT = 2
"""Exit code of `smar` for bad input."""
NOTHING_TO_DO = 99
"""Exit code of `smar` where there is nothing to do; Airflow's own operators take it for a skipped task."""


class InputError(ValueError):
    """Bad input: its message names the file, the row or setting, and what to do.

    The command line prints the message alone and exits with code 2; nothing has been published. Passwords and keys are masked.
    """

    def __init__(self, message: object) -> None:
        super().__init__(mask_secrets(str(message)))


class NoAnswer(Exception):
    """A service does not answer for now: its message says which. The exit code is 1, which Airflow tries again."""

    def __init__(self, message: object) -> None:
        super().__init__(mask_secrets(str(message)))


class NothingToDo(Exception):
    """What was asked for does not exist, which is no fault: its message says so, and the exit code is 99."""
