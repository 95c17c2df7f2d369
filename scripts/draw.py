"""`demolish draw` from a checkout: python scripts/draw.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("draw")
