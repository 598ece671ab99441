"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can put right.

    The message is one line: what is wrong (naming the flag or the file) and the way out. Command
    lines print it without a traceback and exit with status 2.
    """
