"""From files of results to bench/RESULTS.md, its plots and the table of docs/speed.md."""
