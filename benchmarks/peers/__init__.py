"""One module per competitor, each importing its own library inside its functions.

A function takes (case, variant) and returns `benchmarks.worker.Work`:

    train     one training step of the case
    overhead  samplers around a denoiser that costs nothing
    draw      images from the network of the case
"""
