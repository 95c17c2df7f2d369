"""python -m experiments.guidance_tradeoff."""

from experiments.guidance_tradeoff.run import main

if __name__ == "__main__":
    main()
