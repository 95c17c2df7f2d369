"""`demolish evaluate` from a checkout: python scripts/evaluate.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("evaluate")
