"""Every way to build an ODE diffusion: its worked numbers, and what comes out when it is trained."""
