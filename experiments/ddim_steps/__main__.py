"""python -m experiments.ddim_steps."""

from experiments.ddim_steps.run import main

if __name__ == "__main__":
    main()
