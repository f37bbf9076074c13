"""The one exception that is written for people."""


class UserError(Exception):
    """A request that cannot be carried out: says what was given, what was expected and what to do.

    The command line prints it as one line and exits with status 2; a program catches it like any other
    exception.
    """
