"""`python -m diffusion` is the command `demolish`."""

from diffusion.cli import start

if __name__ == "__main__":
    start()
