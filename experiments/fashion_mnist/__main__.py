"""python -m experiments.fashion_mnist."""

from experiments.fashion_mnist.run import main

if __name__ == "__main__":
    main()
