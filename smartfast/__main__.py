"""`python -m smartfast` is the command `smartfast`."""

import sys

from smartfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
