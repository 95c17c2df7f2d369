"""`demolish sample` from a checkout: python scripts/sample.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("sample")
