"""The variance of a reverse step: what is optimal, what is estimated, and what it buys."""
