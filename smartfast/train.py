"""Entry point of `accelerate launch smartfast/train.py`; without arguments it trains configs/presets/digits.yaml."""

import os
import sys

# Python puts a script's folder first on its path, where `import kernels` would find ours in place of the package.
_FOLDER = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != _FOLDER]

from smartfast.cli import process  # noqa: E402

if __name__ == "__main__":
    sys.exit(process(["train", *sys.argv[1:]]))
