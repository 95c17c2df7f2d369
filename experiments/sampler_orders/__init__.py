"""Which sampler has which order, and what an evaluation buys."""
