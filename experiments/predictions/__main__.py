"""python -m experiments.predictions."""

from experiments.predictions.run import main

if __name__ == "__main__":
    main()
