"""The suites of `python -m bench`: what each module's `run` measures goes into a file of results."""
