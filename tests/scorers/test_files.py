"""Weight files of the original projects, named as `smart.scorer`."""

import os
import re
from pathlib import Path

import pytest
import torch

from smartfast.errors import UserError
from smartfast.scorers import load_scorer

FIXTURES = Path(os.environ.get("SMARTFAST_FIXTURES", Path(__file__).resolve().parents[3] / "shared" / "fixtures"))
FILES = FIXTURES / "files"
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason=f"no fixtures: {FILES} is missing (set SMARTFAST_FIXTURES)")
EDM = ("edm", "edm2")


@pytest.mark.parametrize("path", sorted(path for folder in EDM for path in (FILES / folder).glob("*.pkl")), ids=str)
def test_a_snapshot_is_a_scorer(path) -> None:
    scorer = load_scorer(str(path))
    _, size, _ = scorer.image_shape
    labels = torch.arange(2) if scorer.num_classes else None
    eps = scorer.predict_eps(torch.randn(2, 3, size, size), torch.tensor([40, 600]), labels)
    assert eps.shape == (2, 3, size, size) and eps.isfinite().all()
    assert load_scorer(f"edm:{path}").image_shape == scorer.image_shape


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "adm/like_64x64_diffusion.pt",
            "its tensors are of no published network, expected smart.scorer_options.image_size, smart.",
        ),
        ("stylegan2_ada/skip_resnet_uncond.pkl", "holds stylegan2 generator G"),
        ("hostile/reduce_os_system.pkl", "system"),
        ("hostile/broken-edm-truncated.pkl", "cannot be read as weights"),
        ("hostile/broken-text.pt", "cannot be read as weights"),
    ],
)
def test_files_that_are_none(name, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_scorer(str(FILES / name))
    assert "\n" not in str(error.value) and name in str(error.value)
