"""Files, locks, signals, processes, progress: utilities that depend on the machine and not on diffusion models."""
