"""Files, locks, signals, processes, progress: the part of a program that knows the machine and nothing of diffusion."""
