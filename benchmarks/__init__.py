"""Speed and memory, ours beside others' on the same work: `python -m benchmarks --help`."""
