"""A chain that demolishes and rebuilds digits: variances of the reverse step, steps, and forms of the loss."""
