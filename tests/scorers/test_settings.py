"""smart.scorer_options: what a scorer's file is read with, from where, and that the same file is then read the same."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smartfast.config.scorer import ScorerOptions
from smartfast.errors import UserError
from smartfast.networks.unets import (
    PUBLISHED,
    ADMOptions,
    DhariwalOptions,
    EDM2Options,
    EDMOptions,
    SongOptions,
    build_network,
)
from smartfast.scorers import load_scorer
from smartfast.scorers.converted import save_scorer
from smartfast.scorers.edm import log_uniform_schedule
from smartfast.scorers.originals import arguments_of_adm, known_of_adm
from smartfast.scorers.schedule import edm_schedule
from smartfast.scorers.settings import Settings, described, options_in_use

ADM8 = ADMOptions(
    8, model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions=(4,), num_head_channels=16
)
NARROW: dict[str, Any] = dict(img_resolution=8, model_channels=32, channel_mult=(1, 2), num_blocks=1, label_dim=4)
ADM_READ = ScorerOptions(image_size=8, head_channels=16, attention_order="legacy", schedule="cosine")
USUAL: dict[str, ScorerOptions] = {
    "diffusers": ScorerOptions(schedule="linear", steps=1000, prediction="eps", timestep_shift=0),
    "adm": replace(ADM_READ, steps=1000, timestep_shift=0),
    "consistency_models": replace(
        ADM_READ, schedule="edm", preconditioning="cm", steps=1000, sigma_min=0.002, sigma_max=80.0
    ),
    "edm": ScorerOptions(preconditioning="edm", schedule="edm", steps=1000, sigma_min=0.002, sigma_max=80.0),
    "iddpm": ScorerOptions(preconditioning="iddpm", schedule="iddpm"),
    "edm2": ScorerOptions(schedule="edm", steps=1000, sigma_min=0.002, sigma_max=80.0),
}
NEEDED = {"adm": ADM_READ, "consistency_models": replace(ADM_READ, schedule=None)}
OTHERS: dict[str, ScorerOptions] = {
    "diffusers": ScorerOptions(schedule="cosine", steps=500, prediction="v", timestep_shift=2),
    "adm": ScorerOptions(
        image_size=16, heads=2, attention_order="new", schedule="linear", steps=4000, timestep_shift=-1
    ),
    "consistency_models": ScorerOptions(image_size=8, heads=1, attention_order="new", preconditioning="edm"),
    "edm": ScorerOptions(preconditioning="vp", schedule="log_uniform", steps=50, sigma_min=0.005, sigma_max=0.008),
    "edm2": ScorerOptions(schedule="log_uniform", sigma_max=10.0),
}


@pytest.fixture
def file_of(tmp_path: Path, scorer_folder: Any):
    """file_of(kind): a file or folder of that kind, of random weights."""

    def write(kind: str) -> str:
        torch.manual_seed(0)
        if kind == "diffusers":
            return str(scorer_folder()[0])
        of_cm = EDMOptions(replace(ADM8, out_channels=3, attention_dims=2), "cm")
        network = build_network(
            {
                "adm": ADM8,
                "consistency_models": of_cm.model,
                "edm": EDMOptions(SongOptions(**NARROW)),
                "iddpm": EDMOptions(DhariwalOptions(**NARROW), "iddpm"),
                "edm2": EDM2Options(**NARROW, attn_resolutions=(4,), channels_per_head=16),
            }[kind]
        )
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        if kind in NEEDED:
            torch.save(network.state_dict(), tmp_path / "my.pt")
            return str(tmp_path / "my.pt")
        save_scorer(tmp_path / "folder", network.options, network.state_dict())
        return str(tmp_path / "folder")

    return write


def eps(scorer: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size, t = scorer.resolution, torch.tensor([0, scorer.num_timesteps - 2])
    labels = torch.tensor([0, 3]) if scorer.num_classes else None
    return scorer.predict_eps(torch.randn(2, 3, size, size, generator=generator), t, labels)


@pytest.mark.parametrize("kind", USUAL)
def test_what_is_in_use_reads_the_same(file_of, kind) -> None:
    name = file_of(kind)
    scorer = load_scorer(name, options=NEEDED.get(kind))
    used = options_in_use(scorer.settings)
    assert used == USUAL[kind]
    again = load_scorer(name, options=used)
    assert torch.equal(eps(scorer), eps(again)) and torch.equal(scorer.sigmas, again.sigmas)
    assert {source for _, _, source in again.settings} == {"smart.scorer_options"}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_option_of_the_user_counts(file_of, kind) -> None:
    name, given = file_of(kind), {key: value for key, value in asdict(OTHERS[kind]).items() if value is not None}
    scorer = load_scorer(name, options=OTHERS[kind])
    used = asdict(options_in_use(scorer.settings))
    assert {key: used[key] for key in given} == given
    usual = load_scorer(name, options=NEEDED.get(kind))
    assert eps(scorer).shape != eps(usual).shape or not torch.equal(eps(scorer), eps(usual))
    assert "(smart.scorer_options)" in described(scorer.settings)


def test_noise_levels_of_edm(file_of) -> None:
    name, bounds = file_of("edm"), dict(sigma_min=0.0051, sigma_max=0.0078)
    table = load_scorer(name, options=ScorerOptions(schedule="edm", steps=40, **bounds))
    uniform = load_scorer(name, options=ScorerOptions(schedule="log_uniform", steps=40, **bounds))
    torch.testing.assert_close(table.sigmas.double(), edm_schedule(40, **bounds).sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(uniform.sigmas.double(), log_uniform_schedule(40, **bounds).sigmas, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["adm", "diffusers"])
def test_a_shifted_timestep_is_what_the_network_is_told(file_of, kind) -> None:
    name = file_of(kind)
    usual, shifted = (
        load_scorer(name, options=replace(NEEDED.get(kind, ScorerOptions()), timestep_shift=by)) for by in (0, -3)
    )
    x_t, t = torch.randn(3, 3, 8, 8), torch.tensor([1, 20, 999])
    assert torch.equal(shifted.network(x_t, t, None), usual.network(x_t, torch.tensor([0, 17, 996]), None))
    assert torch.equal(shifted.sigmas, usual.sigmas)


@pytest.mark.parametrize("name", ["64x64_diffusion", "128x128_diffusion", "lsun_bedroom", "edm_imagenet64_ema"])
def test_a_published_network_says_what_tensors_do_not(name) -> None:
    options: Any = getattr(PUBLISHED[name], "model", PUBLISHED[name])
    settings = Settings()
    known = known_of_adm(settings, options, f"published {name}")
    assert replace(options, **arguments_of_adm(known)) == options
    heads = f"head_channels {options.num_head_channels}" if options.num_head_channels else f"heads {options.num_heads}"
    order = "new" if options.use_new_attention_order else "legacy"
    expected = f"image_size {options.image_size}, {heads}, attention_order {order} (published {name})"
    assert described(settings.taken) == expected


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("diffusers", ScorerOptions(heads=4), ".heads is 4, expected unset: {}, of the format diffusers, is read with"),
        (
            "adm",
            replace(ADM_READ, preconditioning="vp"),
            ".preconditioning is vp, expected unset: {}, of the format adm",
        ),
        ("adm", replace(ADM_READ, heads=2), ".head_channels is 16, expected unset: {}, of the format adm"),
        ("edm", ScorerOptions(timestep_shift=1), ".timestep_shift is 1, expected unset: {}, of the format converted"),
        ("iddpm", ScorerOptions(sigma_max=5.0), ".sigma_max is 5.0, expected unset"),
        ("adm", replace(ADM_READ, schedule="edm"), ".schedule is edm, expected of {} linear or cosine"),
        ("edm", ScorerOptions(schedule="cosine"), ".schedule is cosine, expected of {} edm or log_uniform"),
        ("diffusers", ScorerOptions(schedule="iddpm"), ".schedule is iddpm, expected of {} linear or scaled_linear or"),
        ("edm", ScorerOptions(sigma_min=90.0), "sigma_min 90, sigma_max 80, steps 1000, expected sigma_min below"),
        ("edm", ScorerOptions(preconditioning="iddpm"), "u is missing, expected (1001,) in a network of the kind edm"),
        ("adm", replace(ADM_READ, head_channels=7), "heads of 7 in attention over 64 channels, expected what divides"),
        ("adm", replace(ADM_READ, head_channels=None, heads=3), "3 heads in attention over 64 channels"),
    ],
)
def test_what_a_file_is_not_read_with(file_of, kind, options, message) -> None:
    name = file_of(kind)
    with pytest.raises(UserError, match=re.escape(message.format(name))) as error:
        load_scorer(name, options=options)
    assert "\n" not in str(error.value)
