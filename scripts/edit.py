"""`demolish edit` from a checkout: python scripts/edit.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("edit")
