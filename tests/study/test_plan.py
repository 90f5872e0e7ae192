"""A study's YAML: what it means, and one line for whatever is wrong with it before anything runs."""

import shlex
from pathlib import Path

import pytest
import yaml

from smartfast.config.parse import parse_config
from smartfast.errors import UserError
from smartfast.study.plan import STUDIES, Cell, check_trainings, find_study, load_plan

GOOD = {
    "base": "digits",
    "settings": {"run.tracker": "none"},
    "arms": {"plain": {"smart.frequency": 0}, "score": {}},
    "seeds": [3, 5],
    "budget": {"kimg": 2},
    "metrics": ["fd_digits", "recall"],
    "hypotheses": [{"text": "It helps.", "metric": "recall", "test": "score > 1.5 * plain"}],
    "quick": {"settings": {"metrics.samples": 16}, "seeds": "0-1", "budget": {"kimg": 0.064}},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    settings = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_cells_have_stable_names_and_complete_commands(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path))
    assert [cell.name for cell in plan.cells] == ["plain-3", "score-3", "plain-5", "score-5"]
    assert shlex.join(plan.options(Cell("plain", 5), Path("out"))) == (
        "--config digits --run.tracker=none --smart.frequency=0 --run.kimg=2 --run.seed=5 --run.dir=out/cells/plain-5"
    )
    hypothesis = plan.hypotheses[0]
    assert (hypothesis.left, hypothesis.sign, hypothesis.factor, hypothesis.right) == ("score", 1, 1.5, "plain")
    assert hypothesis.test == "score > 1.5 * plain"


def test_the_quick_form_wins_over_the_arms(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path), quick=True)
    assert (plan.name, plan.seeds, plan.budget.kimg) == ("mine-quick", (0, 1), 0.064)
    config = parse_config(plan.options(Cell("plain", 1), tmp_path))
    assert (config.metrics.samples, config.smart.frequency, config.run.seed, config.run.kimg) == (16, 0, 1, 0.064)


def test_an_arm_may_have_a_base_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("data:\n  path: digits\n")
    plan = load_plan(write(tmp_path, arms={"plain": {}, "other": {"base": "other.yaml"}}, hypotheses=None))
    bases = [plan.options(Cell(name, 3), tmp_path)[1] for name in ("plain", "other")]
    assert bases == ["digits", str(tmp_path / "other.yaml")]
    both = {"plain": {"base": "digits"}, "other": {"base": "cifar10"}}
    assert [arm.base for arm in load_plan(write(tmp_path, base=None, arms=both, hypotheses=None)).arms] == [
        "digits",
        "cifar10",
    ]


def test_a_sweep_is_an_arm_per_pair_of_values(tmp_path: Path) -> None:
    sweep = {"smart.weight": [5, 20], "smart.noise_to_signal": [[0.1, 0.2], [0.3, 0.4]]}
    plan = load_plan(write(tmp_path, sweep=sweep, arms=None, hypotheses=None))
    names = [arm.name for arm in plan.arms]
    assert names[:2] == ["weight=5,noise_to_signal=0.1-0.2", "weight=5,noise_to_signal=0.3-0.4"] and len(names) == 4
    config = parse_config(plan.options(Cell(names[3], 3), tmp_path))
    assert (config.smart.weight, config.smart.noise_to_signal) == (20, (0.3, 0.4))


def test_a_budget_of_seconds_does_not_end_by_images(tmp_path: Path) -> None:
    plan = load_plan(write(tmp_path, budget={"seconds": 90}))
    assert (plan.budget.kimg, plan.budget.seconds, str(plan.budget)) == (None, 90, "90 s of training")
    assert parse_config(plan.options(plan.cells[0], tmp_path)).run.kimg == 1e6


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arm": {}}, "arm: there is no such key, expected title, "),
        ({"quick": {"arms": {}}}, "quick.arms: there is no such key, expected settings, seeds, budget"),
        ({"conclusion": ["It helps."]}, "conclusion is .'It helps..., expected text"),
        ({"base": None}, "base is missing, expected in a study or in each of its arms, as in arms.plain"),
        ({"arms": {"a": {"base": "digit"}}}, "arms.a.base is digit, expected a file or one of the presets"),
        ({"arms": {"a": {"base": "digits"}, "b": {}}}, "arms.b trains the same as arms.a"),
        ({"base": "digit"}, "base is digit, expected a file or one of the presets"),
        ({"arms": {}}, "arms is empty"),
        ({"arms": [1]}, r"arms is \[1\], expected names and values"),
        ({"arms": {"a/b": {}}}, "arms: 'a/b' is no name"),
        ({"arms": {"a": {"smart.frequency": 2}, "b": {"smart.frequency": 2}}}, "arms.b trains the same as arms.a"),
        ({"arms": {"a": {"run.seed": 1}}}, "arms.a.run.seed is given by seeds"),
        ({"arms": {"a": {"frequency": 1}}}, "arms.a: 'frequency' is no setting"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\], expected a list of different"),
        ({"seeds": [True]}, r"seeds is \[True\]"),
        ({"seeds": "4-0"}, "seeds is '4-0'"),
        ({"budget": {"kimg": 1, "seconds": 1}}, "budget is .*, expected {kimg: NUMBER} or"),
        ({"budget": {"kimg": -1}}, "budget is "),
        ({"budget": {"hours": 1}}, "budget.hours: there is no such key, expected kimg, seconds"),
        ({"metrics": []}, r"metrics is \[\]"),
        ({"sweep": {"smart.weight": [1, 2]}}, "sweep has 1 settings, expected two"),
        ({"sweep": {"smart.weight": [1, 2], "smart.frequency": 3}}, "sweep.smart.frequency is 3, expected a list"),
        ({"compare": ["score"]}, r"compare is \['score'\], expected names and values"),
        ({"compare": {"score": "ada"}}, "compare has score: ada, expected two arms of the study: plain, score"),
        ({"compare": {"score": "score"}}, "compare has score: score, expected two arms"),
        ({"hypotheses": [{"text": "x"}]}, r"hypotheses\[0\] is .*expected texts for text, metric, test"),
        ({"hypotheses": [{"text": "x", "metric": "fid", "test": "score < plain"}]}, r"hypotheses\[0\].metric is fid"),
        ({"hypotheses": [{"text": "x", "metric": "recall", "test": "score plain"}]}, r"hypotheses\[0\].test is"),
        ({"hypotheses": [{"text": "x", "metric": "recall", "test": "score < ada"}]}, "test names ada, expected arms"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file_and_the_key(tmp_path: Path, changes: dict, line: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError, match=line) as error:
        load_plan(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"arms": {"a": {"smart.frequencies": 1}}}, "arms.a: smart.frequencies: there is no such option; did you mean"),
        ({"arms": {"a": {"optim.batch": -1}}}, "arms.a: optim.batch is -1, expected"),
        ({"arms": {"a": {"smart.frequency": 4}, "b": {}}}, "arms.b trains the same as arms.a"),  # the preset's value
        ({"metrics": ["fid"]}, "metrics: arms.plain does not measure fid, expected some of diversity_digits, "),
        ({"metrics": ["kd"]}, "metrics: arms.plain does not measure kd"),
        ({"settings": {"metrics.every_ticks": 0}}, "arms.plain: metrics.every_ticks is 0"),
    ],
)
def test_wrong_settings_of_train_are_found_before_anything_runs(tmp_path: Path, changes: dict, line: str) -> None:
    plan = load_plan(write(tmp_path, **{"hypotheses": None, **changes}))
    with pytest.raises(UserError, match=line):
        check_trainings(plan)


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["quick", "full"])
@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_here_can_be_started(path: Path, quick: bool) -> None:
    """Both forms have the same arms."""
    check_trainings(load_plan(find_study(path.stem), quick=quick))


def test_a_study_that_does_not_exist_is_said_with_those_that_do() -> None:
    with pytest.raises(UserError, match="study digit_augment: no such file, .* of ablation_frequency, .*, toy"):
        find_study("digit_augment")
