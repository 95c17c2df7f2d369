"""python -m experiments.sde_and_ode."""

from experiments.sde_and_ode.run import main

if __name__ == "__main__":
    main()
