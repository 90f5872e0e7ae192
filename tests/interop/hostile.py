"""Reads every file of a folder in a process that may take 1 GiB more, and prints as JSON what came of it.

python hostile.py FOLDER: {"file": {"error": the line of the UserError or null, "events": audit events of the read}}
"""

import json
import resource
import sys
from pathlib import Path

import torch

from smartfast.errors import UserError
from smartfast.interop import read_untrusted

events: set[str] = set()
for codec in ("ascii", "cp437", "raw-unicode-escape", "utf-8", "latin-1"):
    b"a".decode(codec)  # what Python and torch load on first use is no event of a file
torch.frombuffer(bytearray(8), dtype=torch.int64).clone()
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30,) * 2)
sys.addaudithook(lambda name, arguments: name == "builtins.id" or events.add(f"{name} {arguments[:1]}"))

results = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    events.clear()
    error = None
    try:
        read_untrusted(path)
    except UserError as refusal:
        error = str(refusal)
    results[path.name] = {"error": error, "events": sorted(events)}
print(json.dumps(results))
