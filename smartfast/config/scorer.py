"""What a scorer's file does not tell, or tells wrongly."""

from dataclasses import dataclass
from typing import Literal

from smartfast.config.ranges import Count, Ratio, Resolution, Shift, Timesteps

ScheduleName = Literal["linear", "scaled_linear", "cosine", "edm", "log_uniform", "iddpm"]


@dataclass(frozen=True)
class ScorerOptions:
    """How the scorer's file is read; each option names its formats, of which `converted` has those of its network.

    Unset takes what the file says, or what is known of the published network with its tensors; a run's config.yaml has
    what was taken.
    """

    image_size: Resolution | None = None
    """Height and width of the images, in pixels (adm)."""
    heads: Count | None = None
    """Heads of each attention layer (adm)."""
    head_channels: Count | None = None
    """Channels of each attention head, in place of heads (adm)."""
    attention_order: Literal["legacy", "new"] | None = None
    """Whether heads were split before q, k and v (legacy) or after (adm)."""
    preconditioning: Literal["edm", "vp", "ve", "iddpm", "cm"] | None = None
    """From network to denoiser: EDM's, VP's, VE's, iDDPM's, or EDM's in consistency_models (edm)."""
    prediction: Literal["eps", "x0", "v"] | None = None
    """What the network predicts (diffusers)."""
    schedule: ScheduleName | None = None
    """Noise of timesteps: linear or cosine (adm, diffusers), scaled_linear (diffusers); of EDM's, which know sigma, the
    table that t is drawn from: edm (rho 7, SMaRt's), log_uniform, or of iddpm's preconditioning its own."""
    steps: Timesteps | None = None
    """Timesteps of the schedule (adm, edm, diffusers)."""
    timestep_shift: Shift | None = None
    """Added to each timestep that the network is told, never below 0 (adm, diffusers)."""
    sigma_min: Ratio | None = None
    """The least sigma of the table edm or log_uniform (edm)."""
    sigma_max: Ratio | None = None
    """The largest sigma of the table edm or log_uniform (edm)."""
