"""Entry point of `accelerate launch smartfast/train.py`; without arguments it trains configs/presets/digits.yaml."""

import sys

from smartfast.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
