"""How far methods for linear inverse problems are from the posterior."""
