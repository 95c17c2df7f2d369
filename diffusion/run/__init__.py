"""Runs in work directories: training, opening, and the files of a run."""
