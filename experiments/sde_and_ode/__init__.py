"""Study: one process as an SDE, as an ODE, and everything between."""
