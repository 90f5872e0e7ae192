"""Stands in for `smartfast train`: a few steps, each a digest of the one before, saved as they are done.

It ends like a training: status 0 when complete, 3 after SIGTERM or when its worker is gone, 2 where the seed or the
weight is 13. Seed 14 is never evaluated.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

options = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if "=" in argument)
folder, seed = Path(options["run.dir"]), int(options["run.seed"])
steps, pause_sec = round(1000 * float(options["run.kimg"])), float(os.environ.get("STAND_IN_SEC", "0"))
state, log = folder / "state.txt", folder / "metrics.jsonl"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))

if "13" in (options["run.seed"], options["smart.weight"]):
    print("smartfast: error: 13 brings bad luck")
    sys.exit(2)
done = state.read_text().split() if state.exists() else []
rows = log.read_text().splitlines() if log.exists() else []
log.write_text("".join(f"{row}\n" for row in rows if json.loads(row)["kimg"] <= len(done) / 1000))
while len(done) < steps:
    if os.getppid() != int(os.environ["SMARTFAST_LAUNCHER_PID"]):
        sys.exit(3)
    time.sleep(pause_sec)
    done.append(hashlib.sha256(f"{options['smart.weight']} {seed} {done}".encode()).hexdigest()[:8])
    row = {"kind": "tick", "kimg": len(done) / 1000, "sec_per_tick": 1.0}
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    state.with_suffix(".new").write_text(" ".join(done))
    state.with_suffix(".new").replace(state)
    checkpoint = folder / "checkpoints" / f"{len(done):06}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text(json.dumps({"images": len(done)}))
if seed == 14:
    sys.exit(0)
with log.open("a") as file:
    row = {"kind": "metrics", "features": "digits", "kimg": len(done) / 1000, "metric/fd_digits": int(done[-1], 16)}
    file.write(json.dumps(row) + "\n")
with (folder.parent / "completed.txt").open("a") as file:
    file.write(f"{folder.name}\n")
