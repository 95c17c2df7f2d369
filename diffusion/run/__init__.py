"""Runs in work directories: training one, opening one, and what stands in its folder."""
