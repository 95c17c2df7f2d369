"""`demolish data` from a checkout: python scripts/data.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("data")
