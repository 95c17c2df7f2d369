"""Benchmarks of speed and memory against other libraries on the same work: `python -m benchmarks --help`."""

import os
import sys

# `python -m` searches the current folder first; what lies there must not stand in for an installed package
sys.path.sort(key=lambda p: os.path.abspath(p) == os.getcwd())
