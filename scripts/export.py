"""`demolish export` from a checkout: python scripts/export.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("export")
