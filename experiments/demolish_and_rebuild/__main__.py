"""python -m experiments.demolish_and_rebuild."""

from experiments.demolish_and_rebuild.run import main

if __name__ == "__main__":
    main()
