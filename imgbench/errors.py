"""Errors a user can mend: a message without a stack trace, and exit code 2 at the command line."""


class UserError(Exception):
    """Names the option or file, what was found, what was expected, and what mends it."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message without a stack trace, as at the command line."""
        return [f"Error: {self}"]
