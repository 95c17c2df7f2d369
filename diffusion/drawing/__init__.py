"""Pictures of a process in one or two dimensions, before anything is trained, or of a trained model.

`make_scene` computes the paths of one process for one finite data set, with its exact velocity field or a trained one.
A process without a stated density, and therefore without an exact field, is shown by its paths, by histograms, and
by local averages of `velocity` over random draws. The other functions draw a scene.
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
