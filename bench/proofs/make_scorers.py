"""The scorers of the study `scorers`: worse and better ones of the digits, one after another.

    python -m bench.proofs.make_scorers [--only eighth half] [--out runs/scorers] [--kimg 144]

Each is a run of `smartfast train-scorer` in a folder of its own; the same command again goes on with what is not
complete.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from smartfast.cli import main as smartfast

COMMAND = "python -m bench.proofs.make_scorers"
SCORERS: dict[str, tuple[float, list[str]]] = {
    "eighth": (1 / 8, ["--config=digits"]),
    "half": (1 / 2, ["--config=digits"]),
    "whole": (1, ["--config=digits"]),
    "narrow": (1, ["--config=digits", "--unet.block_out_channels=[8, 16, 32]"]),
    "wide": (1, ["--config=digits", "--unet.block_out_channels=[32, 64, 128]"]),
    "adm": (4 / 9, ["--config=digits_adm"]),
    "edm": (1 / 3, ["--config=digits_edm"]),
    "mirrored": (1, ["--config=digits", "--data.mirror=true"]),
}
"""By name: the length of the training over the bundled scorer's, and its other options. ADM's and EDM's are those of
their files in configs/scorers."""
BUNDLED_KIMG = 144.0


def options_of(name: str, out: Path, kimg: float) -> list[str]:
    """Of `smartfast train-scorer` for a scorer, where a whole length is `kimg`."""
    share, options = SCORERS[name]
    return [*options, f"--dir={out / name}", f"--kimg={kimg * share:g}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code, that of the first training that failed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/scorers"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=SCORERS, default=list(SCORERS), help="which, unset: all")
    parser.add_argument("--kimg", type=float, default=BUNDLED_KIMG, help="a whole length, less to try it")
    options = parser.parse_args(arguments)
    for name in options.only:
        print(f"{name}:", flush=True)
        if code := smartfast(["train-scorer", *options_of(name, options.out, options.kimg)]):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
