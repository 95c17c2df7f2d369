"""DDIM: how much noise at how many steps, paths between latents, and the way there and back."""
