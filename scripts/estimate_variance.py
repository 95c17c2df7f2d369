"""`demolish estimate_variance` from a checkout: python scripts/estimate_variance.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("estimate_variance")
