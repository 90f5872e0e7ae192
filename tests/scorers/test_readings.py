"""Other readings of a scorer: each predicts what the same file predicts when it is loaded so, and leaves no trace."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from smartfast.networks.unets import ADM, ADMOptions, Denoiser, EDMOptions, SongOptions
from smartfast.scorers import UNetScorer
from smartfast.scorers.adm import ADMScorer, adm_schedule
from smartfast.scorers.edm import EDMScorer
from smartfast.scorers.readings import NEAR, OPTION, readings, shifts
from smartfast.scorers.schedule import schedule_from_config, shifted

ADM8 = ADMOptions(
    8, model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions=(4,), num_head_channels=16
)
CM8 = EDMOptions(replace(ADM8, out_channels=3, attention_dims=2), "cm")
SONG8 = EDMOptions(SongOptions(8, model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,)))


def filled(kind: Any, options: Any) -> Any:
    """A network without a weight that is zero, the same for options of the same shapes."""
    torch.manual_seed(0)
    network = kind(options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def adm(*, order: str = "legacy", schedule: Any = "linear", dtype: torch.dtype = torch.float32) -> ADMScorer:
    network = filled(ADM, replace(ADM8, use_new_attention_order=order == "new"))
    return ADMScorer(network, adm_schedule(schedule), dtype=dtype)


def edm(options: EDMOptions) -> EDMScorer:
    return EDMScorer(filled(Denoiser, options))


def eps_of_each(scorer: Any, found: Any) -> dict[str, torch.Tensor]:
    x_t, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([30, 400])
    predictions = {"": scorer.predict_eps(x_t, t)}
    for reading in found:
        with reading.opened():
            predictions[reading.text.replace(OPTION, "")] = scorer.predict_eps(x_t, t)
        assert torch.equal(scorer.predict_eps(x_t, t), predictions[""])
    return predictions


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order, other", [("legacy", "new"), ("new", "legacy")])
def test_attention_order(order, other, dtype) -> None:
    scorer = adm(order=order, dtype=dtype)
    found = eps_of_each(scorer, readings(scorer))
    expected = eps_of_each(adm(order=other, dtype=dtype), [])[""]
    assert set(found) == {
        "",
        "schedule cosine",
        f"attention_order {other}",
        f"attention_order {other} and schedule cosine",
    }
    assert torch.equal(found[f"attention_order {other}"], expected) and not torch.equal(found[""], expected)


def test_attention_with_one_head_has_no_order() -> None:
    scorer = ADMScorer(ADM(replace(ADM8, num_head_channels=64)), adm_schedule("linear"))
    assert [reading.text for reading in readings(scorer)] == [f"{OPTION}schedule cosine"]


@pytest.mark.parametrize("own, other", [("linear", "cosine"), ("cosine", "linear")])
def test_a_schedule_is_the_timestep_of_the_same_noise(own, other) -> None:
    scorer = adm(schedule=own)
    ratios, others = (schedule.sigmas / schedule.alphas for schedule in map(adm_schedule, (own, other)))
    t = torch.tensor([30, 400])
    nearest = (others.log() - ratios[t].log()[:, None]).abs().argmin(dim=1)
    x_t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = eps_of_each(scorer, readings(scorer)[:1])
    assert torch.equal(found[f"schedule {other}"], scorer.network(x_t, nearest, None))


@pytest.mark.parametrize("options", [SONG8, CM8], ids=["song", "cm"])
def test_preconditioning(options) -> None:
    scorer = edm(options)
    found = eps_of_each(scorer, readings(scorer))
    kinds = {"edm", "vp", "ve", "cm"} - {options.preconditioning}
    assert {text for text in found if text.startswith("precond")} == {f"preconditioning {kind}" for kind in kinds}
    for kind in kinds:
        expected = eps_of_each(edm(replace(options, preconditioning=kind)), [])[""]
        assert torch.equal(found[f"preconditioning {kind}"], expected)
    assert ("attention_order new and preconditioning ve" in found) == (options is CM8)


def test_predictions_and_schedules_of_diffusers(tiny_unet) -> None:
    linear = schedule_from_config({}, "test")
    scorer = UNetScorer(tiny_unet(), linear, parameterization="eps")
    found = eps_of_each(scorer, readings(scorer))
    assert list(found) == ["", "schedule scaled_linear", "schedule cosine", "prediction x0", "prediction v"]
    for kind in ("x0", "v"):
        expected = eps_of_each(UNetScorer(tiny_unet(), linear, parameterization=kind), [])[""]
        assert torch.equal(found[f"prediction {kind}"], expected)


@pytest.mark.parametrize("usual", [0, 3])
def test_shifts(tiny_unet, usual) -> None:
    linear = schedule_from_config({}, "test")
    expected = {}
    scorer = UNetScorer(tiny_unet(), shifted(linear, usual), parameterization="eps")
    found = eps_of_each(scorer, shifts(scorer, NEAR))
    for by in (usual - 2, usual - 1, usual + 1, usual + 2):
        other = UNetScorer(tiny_unet(), shifted(linear, by), parameterization="eps")
        expected[f"timestep_shift {by}"] = eps_of_each(other, [])[""]
    assert set(found) == {"", *expected}
    assert all(torch.equal(found[text], eps) for text, eps in expected.items())
    assert shifts(edm(SONG8), NEAR) == []
