"""What a budget of training buys on Fashion-MNIST."""
