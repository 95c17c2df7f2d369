"""Run the study: python -m experiments.ode_from_scratch."""

from experiments.ode_from_scratch.run import main

if __name__ == "__main__":
    main()
