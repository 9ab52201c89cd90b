"""Errors a user can mend: a message without a stack trace, and exit code 2 at the command line."""


class UserError(Exception):
    """Names the option or file, what was found, what was expected, and what mends it."""
