"""Run the study: python -m experiments.sampler_orders."""

from experiments.sampler_orders.run import main

if __name__ == "__main__":
    main()
