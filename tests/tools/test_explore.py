"""`smartfast explore`: its pictures are those of the commands, and what cannot be drawn is one line."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.cli import main
from smartfast.errors import UserError
from smartfast.families.sampling import Look, draw_path
from smartfast.families.saved import open_sampler
from smartfast.tools.explore import MOST_IMAGES, Explorer
from smartfast.tools.generate import GenerateOptions, generate
from smartfast.tools.style_mix import StyleMixOptions, style_mix


def pixels(source: Any) -> np.ndarray:
    with Image.open(source) as picture:
        return np.array(picture).astype(int)


@pytest.fixture(scope="module")
def explorer(make_checkpoint: Callable) -> Explorer:
    run = make_checkpoint(c_dim=3, channels=3)
    return Explorer(open_sampler(run), str(run), ["a", "<b>"])


def draw(explorer: Explorer, path: str, **query: str) -> np.ndarray:
    answer = explorer.answer(path, query)
    assert answer is not None and answer.media_type == "image/png"
    return pixels(io.BytesIO(answer.content))


def test_images_are_those_of_generate(explorer: Explorer, make_checkpoint: Callable, tmp_path: Path) -> None:
    run = str(make_checkpoint(c_dim=3, channels=3))
    for name, asked, options in (
        ("usual", {}, {}),
        (
            "look",
            dict(psi="0.5", cutoff="2", noise="none"),
            dict(truncation_psi=0.5, truncation_cutoff=2, noise="none"),
        ),
        ("class", dict(seeds="3-7", classes="1", noise="random"), dict(seeds="3-7", classes="1", noise="random")),
    ):
        (sheet,) = generate(
            GenerateOptions(
                run, str(tmp_path / f"{name}.png"), **options, device="cpu", columns=8 if name != "class" else 5
            )
        )
        assert np.abs(draw(explorer, "/images.png", **asked) - pixels(sheet)).max() <= 1, name


def test_a_place_between_two_seeds_is_on_the_way_that_interpolate_goes(
    explorer: Explorer, make_checkpoint: Callable
) -> None:
    sampler = open_sampler(make_checkpoint(c_dim=3, channels=3))
    labels, look = torch.tensor([2, 2]), Look(psi=0.7)
    for space in ("w", "z"):
        way = draw_path(sampler, torch.tensor([4, 9]), labels, steps=4, loop=False, space=space, look=look)
        for place, at in enumerate(("0", "0.25", "0.5", "0.75", "1")):
            found = draw(explorer, "/between.png", seeds="4,9", classes="2", psi="0.7", at=at, space=space)
            assert found.shape == (256, 256, 3)
            expected = way[place].permute(1, 2, 0).numpy().astype(int)
            assert np.abs(found[::32, ::32] - expected).max() <= 1, (space, at)


def test_mixed_is_the_grid_of_style_mix(explorer: Explorer, make_checkpoint: Callable, tmp_path: Path) -> None:
    options = dict(rows="0,7", columns="3-5", layers="1-2", classes="1", truncation_psi=0.8)
    run = str(make_checkpoint(c_dim=3, channels=3))
    (grid,) = style_mix(StyleMixOptions(run, str(tmp_path / "mix.png"), **options, device="cpu"))
    asked = dict(rows="0,7", columns="3-5", layers="1-2", classes="1", psi="0.8")
    assert np.abs(draw(explorer, "/mixed.png", **asked) - pixels(grid)).max() <= 1


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("/images.png", dict(seeds="x"), "seeds: found 'x'"),
        ("/images.png", dict(seeds="0-1000"), f"found 1001 images, expected at most {MOST_IMAGES}"),
        ("/images.png", dict(seeds="0-60", classes="0-2"), "found 183 images"),
        ("/images.png", dict(classes="3"), "classes: found '3', expected rising numbers from 0 to 2"),
        ("/images.png", dict(psi="1000"), "psi is '1000', expected a number from -100 to 100"),
        ("/images.png", dict(psi="nan"), "psi is 'nan'"),
        ("/images.png", dict(cutoff="-1"), "cutoff is '-1'"),
        ("/images.png", dict(noise="loud"), "noise is 'loud', expected one of const, random, none"),
        ("/images.png", dict(threshold="0.5"), "StyleGAN2 truncates by psi"),
        ("/images.png", dict(label="a,b"), "label is 'a,b', expected numbers"),
        ("/images.png", dict(label="1,2"), "label: found 2 numbers, expected the generator's 3"),
        ("/images.png", dict(checkpoint="/etc/passwd"), "checkpoint: there is no such value"),
        ("/between.png", dict(seeds="1"), "seeds: found 1, expected two"),
        ("/between.png", dict(seeds="1,2", at="1.5"), "at is '1.5', expected a number from 0 to 1"),
        ("/between.png", dict(seeds="1,2", noise="random"), "noise is random"),
        ("/between.png", dict(seeds="1,2", threshold="0.5"), "found truncation_threshold 0.5, expected none"),
        ("/mixed.png", dict(rows="0-19", columns="0-19"), "found 441 images"),
        ("/mixed.png", dict(layers="4"), "layers: found '4', expected rising numbers from 0 to 3"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(explorer: Explorer, path: str, query: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        explorer.answer(path, query)
    assert "\n" not in str(error.value)


def about(explorer: Explorer) -> dict[str, Any]:
    answer = explorer.answer("/", {})
    assert answer is not None
    (found,) = re.findall(rb'id="data">(.*?)</script>', answer.content)
    return json.loads(found)


def test_the_page_offers_what_the_network_takes(explorer: Explorer, make_checkpoint: Callable) -> None:
    offered = about(explorer)
    assert offered["classes"] == 3 and offered["classNames"] == ["a", "<b>"] and offered["spaces"] == ["w", "z"]
    assert offered["styleLayers"] == 4 and offered["truncates"] and offered["noises"] and not offered["thresholds"]
    assert about(Explorer(open_sampler(make_checkpoint()), "x y", []))["command"] == "--checkpoint 'x y'"
    assert explorer.answer("/runs/0.json", {}) is None


def test_bad_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["explore", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: expected a run folder" in capsys.readouterr().err
    assert main(["explore"]) == 2
    assert "checkpoint" in capsys.readouterr().err
