"""docs/coming_from_stylegan2_ada.md: every flag of stylegan2-ada-pytorch is there, and every setting named is one."""

import re
from pathlib import Path

import pytest

from smartfast.cli import main
from smartfast.config.families import FAMILY_SETTINGS
from smartfast.config.parse import config_parser, options_parser
from smartfast.core.run_log import read_rows
from smartfast.tools.dataset import DatasetOptions
from smartfast.tools.evaluate import EvaluateOptions
from smartfast.tools.generate import GenerateOptions
from smartfast.tools.project import ProjectOptions
from smartfast.tools.style_mix import StyleMixOptions

GUIDE = (Path(__file__).parents[1] / "docs" / "coming_from_stylegan2_ada.md").read_text()
FLAGS = {
    "train.py": "outdir gpus snap metrics seed dry-run data cond subset mirror cfg gamma kimg batch aug p target "
    "augpipe resume freezed fp32 nhwc nobench allow-tf32 workers",
    "dataset_tool.py": "source dest max-images resize-filter transform width height",
    "generate.py": "network seeds trunc class noise-mode projected-w outdir",
    "style_mixing.py": "network rows cols styles trunc noise-mode outdir",
    "projector.py": "network target num-steps seed save-video outdir",
    "calc_metrics.py": "network metrics data mirror gpus verbose",
}
"""The options of its scripts."""
PARSERS = {
    "train.py": config_parser(),
    "dataset_tool.py": options_parser(DatasetOptions, command="dataset"),
    "generate.py": options_parser(GenerateOptions, command="generate"),
    "style_mixing.py": options_parser(StyleMixOptions, command="style-mix"),
    "projector.py": options_parser(ProjectOptions, command="project"),
    "calc_metrics.py": options_parser(EvaluateOptions, command="evaluate"),
}


def rows_of(title: str) -> list[list[str]]:
    """The cells of the table under a heading that begins with `title`."""
    section = re.split(r"\n## ", GUIDE.split(f"\n## {title}")[1])[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def flags_in_help(parser) -> dict[str, set[str]]:
    """What the help of each option says of stylegan2-ada."""
    said = {}
    for action in parser._actions:
        if found := re.search(r"\(stylegan2-ada: ([^)]*)\)", action.help or ""):
            said[action.option_strings[0]] = set(re.findall(r"--[\w-]+", found[1]))
    return said


@pytest.mark.parametrize("script", FLAGS)
def test_every_flag_has_a_line_and_every_option_named_there_exists(script: str) -> None:
    rows = rows_of(script)
    assert [row[0] for row in rows] == [f"`--{flag}`" for flag in FLAGS[script].split()]
    options = {f"--{name}" for name in PARSERS[script].hints()}
    for _, here, differs in rows:
        assert here == "" or here.strip("`") in options, here
        named = set(re.findall(r"`(--[\w.]+)", differs)) - {"--num_processes", "--max_images"}
        assert named <= options, named - options


@pytest.mark.parametrize("script", ["train.py", "generate.py", "style_mixing.py", "projector.py"])
def test_the_help_and_the_guide_name_the_same_flags(script: str) -> None:
    of_guide: dict[str, set[str]] = {}
    for flag, here, _ in rows_of(script):
        if here and here != "`--config`":
            of_guide.setdefault(here.strip("`"), set()).add(flag.strip("`"))
    of_help = {option: flags for option, flags in flags_in_help(PARSERS[script]).items() if flags}
    assert of_help == of_guide


def test_train_help_shows_the_flags(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "(stylegan2-ada: --gamma)" in said and "(stylegan2-ada: --fp32, --allow-tf32)" in said


def test_settings_in_the_text_exist() -> None:
    names = {name for family in FAMILY_SETTINGS for name in config_parser(family=family).hints()}
    groups = "|".join({name.split(".")[0] for name in names})
    named = set(re.findall(rf"`(?:--)?((?:{groups})\.[a-z_0-9]+)\b", GUIDE)) - {"config.yaml", "metrics.jsonl"}
    assert len(named) > 20 and named <= names, named - names


def test_the_keys_of_metrics_jsonl_are_those_of_a_run(tmp_path: Path) -> None:
    settings = (
        "--config=digits --data.resolution=8 --data.labels=false --gan.z_dim=8 --gan.w_dim=8 --gan.mapping_layers=1 "
        "--gan.channel_base=64 --gan.channel_max=8 --gan.mbstd_group=4 --gan.mbstd_by_class=false --optim.batch=8 "
        "--smart.frequency=0 --metrics.every_ticks=0 --run.tracker=none --run.kimg=0.016 --run.tick_kimg=0.016 "
        "--perf.cpu_threads=1 --augment.mode=ada --loss.path_length_weight=2 --loss.path_length_interval=2"
    ).split()
    assert main(["train", *settings, f"--run.dir={tmp_path}"]) == 0
    (tick,) = (row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "tick")
    named = {here.strip("`") for _, here, _ in rows_of("metrics.jsonl and stats.jsonl") if here}
    assert len(named) == 19 and named <= tick.keys(), named - tick.keys()
