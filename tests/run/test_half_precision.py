"""fp16 keeps what the score term says: its gradient is far below fp16's smallest number."""

import pytest
import torch

from smartfast.config.parse import parse_config
from smartfast.core.draws import Purpose
from smartfast.data import RealBatch, open_dataset
from smartfast.run.training import Training
from smartfast.scorers import timestep_range
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_betas

SETTINGS = {
    "data.resolution": 128,
    "gan.z_dim": 16,
    "gan.w_dim": 16,
    "gan.mapping_layers": 1,
    "gan.channel_base": 512,
    "gan.channel_max": 16,
    "gan.mbstd_group": 4,
    "gan.mbstd_by_class": "false",
    "gan.conv_clamp": 256,
    "loss.style_mixing_prob": 0,
    "optim.batch": 16,
    "smart.weight": 0.001,  # about 1e-8 per pixel, what 0.1 gives at 256 pixels in colour and batch 64
    "smart.timesteps": "[25, 35]",
    "smart.noise_to_signal": "null",
}


def score_gradient(precision: str, separate_pass: bool) -> torch.Tensor:
    """What the score term adds to the generator's gradient, by both phases with the same random numbers."""
    settings = SETTINGS | {"smart.separate_pass": str(separate_pass).lower()}
    config = parse_config([f"--{name}={value}" for name, value in settings.items()])
    object.__setattr__(config.perf, "precision", precision)  # the command line refuses fp16 on a CPU, which is slow
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(1, 1, 128, 128), torch.tensor([0.5]))
    training = Training(
        config,
        open_dataset(config.data),
        scorer=scorer,
        timesteps=timestep_range(scorer, config.smart),
        device=torch.device("cpu"),
    )
    generator = torch.Generator().manual_seed(int(Purpose.SAMPLE))
    training.load(RealBatch(torch.randn(16, 1, 128, 128, generator=generator).tanh(), torch.arange(16) % 10))
    gradients = []
    for name in ("g_score", "g_main"):
        phase = training.phases[name]
        _, _, pieces = phase.compute(training.rounds[0])
        gradients.append(torch.cat([piece.double().flatten() for piece in pieces]) / phase.spec.loss_scale)
    return gradients[0] - gradients[1]


@pytest.mark.parametrize("separate_pass", [False, True])
def test_the_score_terms_gradient_survives_fp16(separate_pass: bool) -> None:
    half, full = (score_gradient(precision, separate_pass) for precision in ("fp16", "fp32"))
    assert full.norm() > 0
    assert torch.cosine_similarity(half, full, dim=0) >= 0.99
