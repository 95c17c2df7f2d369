"""Run the study: python -m experiments.inverse_problems."""

from experiments.inverse_problems.run import main

if __name__ == "__main__":
    main()
