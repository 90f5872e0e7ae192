"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """Bad input. Its message is one line: the argument, key or file, the value found and the value expected.

    The command line prints the message without a traceback and exits with status 2.
    """
