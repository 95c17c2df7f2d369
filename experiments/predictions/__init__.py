"""Study: what a network should predict, with and without a bottleneck."""
