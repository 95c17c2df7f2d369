"""python -m experiments.optimal_variance."""

from experiments.optimal_variance.run import main

if __name__ == "__main__":
    main()
