"""`demolish convert_features` from a checkout: python scripts/convert_features.py --help."""

from _demolish import run

if __name__ == "__main__":
    run("convert_features")
