"""`demolish reference` from a checkout: python scripts/reference.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("reference")
