"""The scorers of the study `scorers`: all that its arms name are made, and a made one is loaded."""

from pathlib import Path

import pytest

from bench.proofs.make_scorers import SCORERS, main, options_of
from smartfast.config.parse import SCORER_CONFIGS, parse_options
from smartfast.scorers import load_scorer
from smartfast.study.plan import STUDIES, load_plan
from smartfast.tools.train_scorer import TrainScorerOptions


def test_every_scorer_that_the_study_names_is_made() -> None:
    named = {arm.settings["smart.scorer"] for arm in load_plan(STUDIES / "scorers.yaml").arms if arm.name != "plain"}
    assert named == {f"runs/scorers/{name}/scorer" for name in SCORERS}


@pytest.mark.parametrize("name", SCORERS)
def test_lengths_are_those_of_the_committed_files(name: str) -> None:
    """adm and edm are made as configs/scorers says, the others relative to the bundled one."""
    arguments = options_of(name, Path("out"), 144.0)
    options = parse_options(TrainScorerOptions, arguments, command="train-scorer", folder=SCORER_CONFIGS)
    kimg = {"eighth": 18, "half": 72, "adm": 64, "edm": 48}.get(name, 144)
    assert options.kimg == pytest.approx(kimg) and options.dir == f"out/{name}"


@pytest.mark.slow
def test_a_made_scorer_scores(tmp_path: Path) -> None:
    assert main([f"--out={tmp_path}", "--only", "narrow", "--kimg=0.128"]) == 0
    assert load_scorer(str(tmp_path / "narrow" / "scorer")).image_shape == (1, 16, 16)
