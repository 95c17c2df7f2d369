"""Pictures of a definition in one or two dimensions, before anything is trained, or of what was trained.

`make_scene` computes the paths of one process for one finite data set, by its exact field or a trained one. A
definition without a stated density, hence without an exact field, is shown by its paths, by histograms, and
by averages of `velocity` over draws near each place. The other functions draw a scene.
"""

from diffusion.drawing.fields import save_density, save_field
from diffusion.drawing.film import find_ffmpeg, render, save_gif, save_mp4
from diffusion.drawing.measures import definition, estimate, landed, prior_mismatch
from diffusion.drawing.scene import Scene, make_scene
from diffusion.drawing.trajectories import save_trajectories

__all__ = [
    "Scene",
    "definition",
    "estimate",
    "find_ffmpeg",
    "landed",
    "make_scene",
    "prior_mismatch",
    "render",
    "save_density",
    "save_field",
    "save_gif",
    "save_mp4",
    "save_trajectories",
]
