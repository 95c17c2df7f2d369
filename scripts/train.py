"""`demolish train` from a checkout: python scripts/train.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("train")
