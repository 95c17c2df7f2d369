"""python -m experiments.architectures."""

from experiments.architectures.run import main

if __name__ == "__main__":
    main()
