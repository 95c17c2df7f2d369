"""Studies: experiments with a question, several runs, and a table of results."""

import os
import sys

# `python -m` searches the current folder first; what lies there must not stand in for an installed package
sys.path.sort(key=lambda p: os.path.abspath(p) == os.getcwd())
