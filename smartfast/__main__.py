"""`python -m smartfast` is the command `smartfast`."""

import sys

from smartfast.cli import process

if __name__ == "__main__":
    sys.exit(process())
