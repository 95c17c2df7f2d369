"""Study: what guidance buys and costs."""
