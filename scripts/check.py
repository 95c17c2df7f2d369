"""`demolish check` from a checkout: python scripts/check.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("check")
