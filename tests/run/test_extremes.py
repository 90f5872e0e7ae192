"""The ends of every setting's range train, with no step skipped, or are refused with one line."""

from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import torch

from smartfast.config.parse import config_parser, parse_config
from smartfast.data import RealBatch, open_dataset
from smartfast.errors import UserError
from smartfast.run.checks import check_config, check_settings, images_at_a_time
from smartfast.run.memory import check_memory, forecast
from smartfast.run.training import Training
from smartfast.scorers import timestep_range
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_betas

CPU = torch.device("cpu")
STYLEGAN2 = {
    "data.resolution": 8,
    "gan.z_dim": 8,
    "gan.w_dim": 8,
    "gan.mapping_layers": 1,
    "gan.d_mapping_layers": 1,
    "gan.channel_base": 64,
    "gan.channel_max": 8,
    "gan.noise": "true",
    "gan.mbstd_group": 4,
    "gan.mbstd_channels": 1,
    "gan.mbstd_by_class": "false",
    "loss.r1_interval": 2,
    "loss.path_length_weight": 2,
    "loss.path_length_interval": 2,
    "optim.batch": 8,
    "smart.scorer": "digits",
    "smart.frequency": 2,
}
DENOISER = {
    "data.resolution": 8,
    "gan.family": "denoiser",
    "gan.block_out_channels": "8,16",
    "gan.layers_per_block": 1,
    "gan.attention": "[]",
    "gan.attention_head_dim": 8,
    "gan.norm_groups": 4,
    "optim.batch": 8,
    "smart.frequency": 0,
}
GROUPS = {"stylegan2": ("gan.", "loss.", "smart.", "optim."), "denoiser": ("gan.", "loss.")}
MORE = [0.5, 1, 3, 1e-30, 1e30, 2**40]


def range_of(hint: Any) -> tuple[Any, int]:
    """The restricted number in a type, and how many of them a list of two has."""
    if hasattr(hint, "_restrictions"):
        return hint, 0
    if get_origin(hint) is tuple:
        number = range_of(get_args(hint)[0])[0]
        return number, 1 if Ellipsis in get_args(hint) else 2
    if get_origin(hint) in (Union, UnionType):
        return next((found for part in get_args(hint) if (found := range_of(part))[0]), (None, 0))
    return None, 0


def cases() -> list[tuple[str, str, str]]:
    """Family, setting, value: the ends of its range, and what of MORE lies within it."""
    found = []
    for family, groups in GROUPS.items():
        for name, hint in config_parser(family=family).hints().items():
            number, length = range_of(hint)
            if number is None or not name.startswith(groups):
                continue
            values = {end for _, end in number._restrictions} | {v for v in MORE if number._type(v) == v}
            for value in sorted(v for v in values if all(compare(v, end) for compare, end in number._restrictions)):
                text = str(number._type(value))
                found.append((family, name, f"[{','.join([text] * length)}]" if length else text))
    return found


MINUTES = {("gan.layers_per_block", "100")}
CASES = [pytest.param(*case, marks=[pytest.mark.slow] if case[1:] in MINUTES else []) for case in cases()]


@pytest.mark.sample(8)
@pytest.mark.parametrize(("family", "name", "value"), CASES)
def test_it_trains_or_is_refused(family: str, name: str, value: str) -> None:
    settings: dict[str, object] = {"stylegan2": STYLEGAN2, "denoiser": DENOISER}[family]
    interval = {} if name == "smart.timesteps" else {"smart.noise_to_signal": "[0.01,0.5]"}
    config = parse_config([f"--{k}={v}" for k, v in {**settings, **interval, name: value}.items()])
    dataset = open_dataset(config.data)
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    try:
        check_settings(config, num_processes=1)
        check_config(config, dataset, device=CPU)
        images = images_at_a_time(config, 1)
        check_memory(config, forecast(config, dataset, images), images, CPU, 1)
        scorer = GaussianMixtureScorer(schedule, torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.5]))
        timesteps = timestep_range(scorer, config.smart) if config.smart.frequency else None
    except UserError as error:
        assert "\n" not in str(error) and (", expected " in str(error) or ": lower " in str(error))
        return
    training = Training(
        config, dataset, scorer=scorer if timesteps else None, timesteps=timesteps, device=CPU, say=lambda line: None
    )
    count, labels = training.images_per_iteration, training.data_labels
    for _ in range(2):
        images = torch.rand(count, *training.family.image_shape) * 2 - 1
        training.run_iteration(RealBatch(images, None if labels is None else labels[:count]))
    assert not any(skipped.item() for skipped in training.skipped().values())
    assert training.ema.parameters.flat.isfinite().all()
