"""What training costs: measured, counted and predicted. For a checkout: `python -m bench`, and programs in
count/ and proofs/.
"""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read at torch's import; otherwise every use of the profiler says so
os.environ.setdefault("TEARDOWN_CUPTI", "1")  # otherwise a process stays slower once it has been profiled
