"""The exception for mistakes in a request, whose message is written for the user."""


class UserError(Exception):
    """A request that cannot be carried out. The message is one line: what was given, what was expected, what
    to do.

    The command line prints it and exits with status 2; a program can catch it like any other exception.
    """


class Interrupted(Exception):
    """A run was asked to stop, and stopped where it can go on. The message is one line: what was saved, and
    how to go on.

    The command line prints it and exits with status 130.
    """
