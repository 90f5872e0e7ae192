"""Resuming under other settings: every difference is said, what shifts the arithmetic is refused, nothing is lost."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from smartfast.cli import main
from smartfast.config.parse import load_config, parse_config
from smartfast.config.schema import Config
from smartfast.config.scorer import ScorerOptions
from smartfast.core.checkpoint import load_newest
from smartfast.run import resume
from smartfast.scorers.fingerprint import fingerprint_of
from smartfast.scorers.loading import BUNDLED

PATHS = ("run.dir", "run.init_from", "data.path", "smart.scorer", "metrics.weights", "metrics.reference")
Options = Callable[..., list[str]]
GROUPS = dataclasses.fields(Config)
FIELDS = [f"{group.name}.{field.name}" for group in GROUPS for field in dataclasses.fields(group.type)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> Path:
    """A complete run of 0.032 kimg."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["train", *tiny_options(folder, run__kimg=0.032)]) == 0
    return folder


@pytest.fixture
def run_dir(tmp_path: Path, finished: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file: when it was written, and what is in it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_the_table_decides_on_every_setting_once() -> None:
    decided = [name for names in resume.TABLE.values() for name in names]
    of_the_family = [name for name in FIELDS if name.startswith(("gan.", "loss."))]
    assert sorted(decided + of_the_family) == sorted(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_compared(name: str) -> None:
    group, field = name.split(".")
    saved = Config()
    value = "/other" if name in PATHS else ("other",)
    changed = dataclasses.replace(saved, **{group: dataclasses.replace(getattr(saved, group), **{field: value})})
    (change,) = resume.changes(saved, changed)
    assert (change.name, change.new) == (name, value if name in PATHS else ["other"])
    rules = (rule for rule, names in resume.TABLE.items() if name in names)
    assert change.rule is next(rules, resume.Rule.REFUSED)


REFUSED = {
    "optim.batch": ("8", "16"),
    "optim.betas": ("[0.0, 0.99]", "[0.1, 0.99]"),
    "optim.lr_d": ("0.003", "0.001"),
    "loss.r1_interval": ("4", "2"),
    "loss.path_length_interval": ("0", "4"),
    "smart.weight": ("20.0", "0.5"),
    "data.mirror": ("False", "True"),
    "gan.w_avg_beta": ("0.995", "0.9"),
    "run.seed": ("0", "7"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_shifts_the_arithmetic_is_refused_and_touches_nothing(
    name: str, run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    old, new = REFUSED[name]
    before = tree(run_dir)
    option = f"--{name}={new.lower() if new == 'True' else new}"
    assert main(["train", *tiny_options(run_dir, run__keep_checkpoints=5), option]) == 2
    printed = capsys.readouterr()
    assert f"{name}: {old} -> {new}\n" in printed.out and "run.keep_checkpoints: 3 -> 5\n" in printed.out
    (line,) = printed.err.strip().splitlines()
    assert line.startswith(f"smartfast: error: {name} is {new}, but the run in {run_dir} was started with {old}")
    assert "run.allow_changes" in line
    assert tree(run_dir) == before


def test_allowed_changes_are_said_and_the_older_config_stays(
    run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    older = (run_dir / "config.yaml").read_bytes()
    changed = dict(optim__batch=16, optim__lr_g=0.001, run__allow_changes="true")
    assert main(["train", *tiny_options(run_dir, **changed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line for line in lines if " -> " in line]
    assert [line.split(": ", 1)[1] for line in said] == ["optim.batch: 8 -> 16", "optim.lr_g: 0.0015 -> 0.001"]
    assert (run_dir / "config.000000.032.yaml").read_bytes() == older
    assert "batch: 16" in (run_dir / "config.yaml").read_text()
    assert load_newest(run_dir).info["images"] == 64


def test_a_length_that_a_learning_rate_follows_is_said() -> None:
    """run.kimg changes no number of other runs."""
    for decay, rule in (("cosine", resume.Rule.SAID), ("constant", resume.Rule.FREE)):
        saved = parse_config(["--gan.family=denoiser", "--smart.frequency=0", f"--loss.lr_decay={decay}"])
        longer = dataclasses.replace(saved, run=dataclasses.replace(saved.run, kimg=2 * saved.run.kimg))
        (change,) = resume.changes(saved, longer)
        assert (change.name, change.rule) == ("run.kimg", rule)


def test_what_changes_no_number_is_free(run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture) -> None:
    free = dict(run__kimg=0.048, data__workers=1, data__cache="device", perf__cpu_threads=2)
    assert main(["train", *tiny_options(run_dir, **free)]) == 0
    assert " -> " not in capsys.readouterr().out
    assert "kimg: 0.048" in (run_dir / "config.yaml").read_text()
    assert not list(run_dir.glob("config.0*"))


def test_what_a_user_wrote_into_config_yaml_stays_where_it_says_the_same(
    run_dir: Path, finished: Path, tiny_options: Options
) -> None:
    text = (run_dir / "config.yaml").read_text().replace(str(finished), str(run_dir))
    (run_dir / "config.yaml").write_text(f"{text}# tried after the long run\n")
    (run_dir / "report.html").unlink()  # there is something left to do
    before = (run_dir / "config.yaml").stat().st_mtime_ns
    assert main(["train", *tiny_options(run_dir, run__kimg=0.032)]) == 0
    assert (run_dir / "config.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changes",
    [{}, {"run__keep_checkpoints": 5}, {"run__kimg": 0.016}, {"run__tracker": "tensorboard"}, {"optim__batch": 16}],
)
def test_a_complete_run_is_left_alone(
    changes: dict[str, object], run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    before = tree(run_dir)
    status = main(["train", *tiny_options(run_dir, **{"run__kimg": 0.032} | changes)])
    assert tree(run_dir) == before
    assert status == (2 if "optim__batch" in changes else 0)
    assert status or "is complete at 0.032 kimg" in capsys.readouterr().out


def test_a_run_that_ended_earlier_than_planned_is_measured_where_it_is_to_end(
    tiny_options: Options, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It was stopped at a snapshot, whose report is as young as a complete run's."""
    changes = dict(metrics__every_ticks=3, metrics__samples=65, run__snapshot_ticks=1, run__tick_kimg=0.016)
    assert main(["train", *tiny_options(tmp_path, **changes, run__kimg=0.032)]) == 0
    log = tmp_path / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    *earlier, last = rows
    assert (last["kind"], last["kimg"]) == ("metrics", 0.032)
    log.write_text("".join(json.dumps(row) + "\n" for row in earlier))
    assert main(["train", *tiny_options(tmp_path, **changes, run__kimg=0.032)]) == 0
    assert "is complete" not in capsys.readouterr().out
    measured = [json.loads(line) for line in log.read_text().splitlines()][-1]
    assert (measured["kind"], measured["kimg"]) == ("metrics", 0.032)
    assert {k: v for k, v in measured.items() if "seconds" not in k} == {
        k: v for k, v in last.items() if "seconds" not in k
    }
    assert main(["train", *tiny_options(tmp_path, **changes, run__kimg=0.032)]) == 0
    assert "is complete at 0.032 kimg" in capsys.readouterr().out


def test_a_dry_run_leaves_a_run_alone(run_dir: Path, tiny_options: Options) -> None:
    before = tree(run_dir)
    assert main(["train", *tiny_options(run_dir, run__dry_run="true", run__keep_checkpoints=5)]) == 0
    assert tree(run_dir) == before


def test_other_images_are_refused_and_touch_nothing(
    run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    """A damaged checkpoint, which a resumed run sets aside, stays where it is as well."""
    images = run_dir.parent / "images"
    images.mkdir()
    for shade in range(8):
        Image.new("L", (8, 8), shade * 20).save(images / f"{shade}.png")
    state = run_dir / "checkpoints" / "000000.032" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\1")
    before = tree(run_dir)
    other = tiny_options(run_dir, data__path=images)
    with pytest.warns(UserWarning, match="000000.032 is passed over"):
        assert main(["train", *other]) == 2
    assert "the fingerprint of the run in" in capsys.readouterr().err
    assert tree(run_dir) == before
    assert main(["train", *other, "--run.allow_changes=true"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if " -> " in line]
    assert len(said) == 2 and f"data.path: digits -> {images}" in said[0]
    assert (run_dir / "checkpoints" / "000000.032.corrupt").is_dir()
    assert load_newest(run_dir).info["images"] == 64


def test_networks_of_another_shape_are_refused_even_where_changes_are_allowed(
    run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    before = tree(run_dir)
    options = tiny_options(run_dir, gan__channel_max=4, gan__mbstd_channels=1, run__allow_changes="true")
    assert main(["train", *options]) == 2
    assert "expected a checkpoint of these networks" in capsys.readouterr().err.splitlines()[-1]
    assert tree(run_dir) == before


def test_a_run_without_its_config_says_that_nothing_was_compared(
    run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    (run_dir / "config.yaml").unlink()
    assert main(["train", *tiny_options(run_dir)]) == 0
    assert f"{run_dir / 'config.yaml'} is missing" in capsys.readouterr().out


def test_a_config_that_cannot_be_read_is_named(
    run_dir: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    (run_dir / "config.yaml").write_text("optim:\n  bach: 8\n")
    assert main(["train", *tiny_options(run_dir)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run_dir / 'config.yaml'}" in line and "optim.bach" in line


def test_the_interval_of_the_score_term_is_one_in_either_form_and_its_scorer_is_read_alike(
    tmp_path: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    scored = dict(smart__frequency=2, data__resolution=16, data__labels="true", run__kimg=0.016, smart__scorer="digits")
    by_timesteps = dict(smart__timesteps="[25, 250]", smart__noise_to_signal="null")
    assert main(["train", *tiny_options(tmp_path, **scored, **by_timesteps)]) == 0
    said = capsys.readouterr().out
    assert "self-check: squared error of eps 0." in said and "self-check: read otherwise, times schedule" in said
    read_with = "schedule linear, steps 1000, prediction eps (scheduler_config.json); timestep_shift 0 (usual)"
    assert f"scorer read with: {read_with}" in said
    used = ScorerOptions(schedule="linear", steps=1000, prediction="eps", timestep_shift=0)
    assert load_config(tmp_path / "config.yaml").smart.scorer_options == used
    scored |= {"run__kimg": 0.032, "smart__self_check": "false"}
    assert main(["train", *tiny_options(tmp_path, **scored, **{"smart.scorer_options.timestep_shift": 1})]) == 2
    assert "timestep_shift is 1, but the run in" in capsys.readouterr().err
    assert main(["train", *tiny_options(tmp_path, **scored, smart__noise_to_signal="[0.5, 0.95]")]) == 2
    error = capsys.readouterr().err
    assert "t = 25..250 of 1000" in error and "but the run in" in error
    assert main(["train", *tiny_options(tmp_path, **scored)]) == 0
    assert "resume: smart.timesteps: [25, 250] -> None" in capsys.readouterr().out


def test_the_scorer_may_move_but_not_become_another(
    tmp_path: Path, tiny_options: Options, capsys: pytest.CaptureFixture
) -> None:
    scorer = shutil.copytree(BUNDLED["digits"], tmp_path / "scorer")
    run_dir = tmp_path / "run"
    scored = dict(smart__frequency=2, data__resolution=16, data__labels="true", smart__self_check="false")
    started = tiny_options(run_dir, **scored, run__kimg=0.016, smart__scorer=scorer)
    assert main(["train", *started]) == 0
    (recorded,) = {load_newest(run_dir).info["scorer"], fingerprint_of(scorer)}
    moved = scorer.rename(tmp_path / "moved")
    longer = tiny_options(run_dir, **scored, run__kimg=0.032, smart__scorer=moved)
    assert main(["train", *longer]) == 0
    assert f"resume: smart.scorer: {scorer} -> {moved}\n" in capsys.readouterr().out

    weights = moved / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: value * 1.001 for name, value in tensors.items()}, weights, {"format": "pt"})
    before, another = tree(run_dir), fingerprint_of(moved)
    again = tiny_options(run_dir, **scored, run__kimg=0.048, smart__scorer=moved)
    assert main(["train", *again]) == 2
    error = capsys.readouterr().err
    assert f"error: smart.scorer {moved}: found {another}, expected {recorded}, the fingerprint of" in error
    assert tree(run_dir) == before
    assert main(["train", *again, "--run.allow_changes=true"]) == 0
    assert f"resume: files of smart.scorer: {recorded} -> {another}\n" in capsys.readouterr().out
    assert load_newest(run_dir).info["scorer"] == another


def test_config_yaml_runs_from_any_folder_and_in_a_moved_run(
    tmp_path: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "images").mkdir()
    for shade in range(8):
        Image.new("L", (8, 8), shade * 20).save(tmp_path / "images" / f"{shade}.png")
    monkeypatch.chdir(tmp_path)
    assert main(["train", *tiny_options(Path("run"), data__path="images", run__kimg=0.016)]) == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["train", "--config=moved/config.yaml", "--run.kimg=0.032"]) == 0
    assert " -> " not in capsys.readouterr().out
    assert load_newest(tmp_path / "elsewhere" / "moved").info["images"] == 32
    assert not (tmp_path / "run").exists() and {path.name for path in tmp_path.iterdir()} == {"elsewhere", "images"}
    text = (tmp_path / "elsewhere" / "moved" / "config.yaml").read_text()
    assert f"path: {tmp_path / 'images'}" in text and f"dir: {tmp_path / 'elsewhere' / 'moved'}" in text
    assert main(["train", "--config", "moved/config.yaml", "--run.dir=other", "--run.kimg=0.016"]) == 0
    assert load_newest(tmp_path / "elsewhere" / "other").info["images"] == 16


def test_a_config_with_paths_of_an_older_version_is_the_same_run(
    run_dir: Path, tiny_options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """They were written as they were given, from the folder of the command."""
    scorer = shutil.copytree(BUNDLED["digits"], run_dir.parent / "scorer")
    monkeypatch.chdir(run_dir.parent)
    saved = run_dir / "config.yaml"
    saved.write_text(
        saved.read_text().replace("scorer: digits", "scorer: diffusers:scorer").replace(str(run_dir), "run")
    )
    options = tiny_options(run_dir, run__kimg=0.048, smart__scorer=f"diffusers:{scorer}")
    assert main(["train", *options]) == 0
    assert " -> " not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["digits", "hf:owner/name", "google/ddpm", "diffusers:google/ddpm", "", "~nouser"])
def test_what_is_no_path_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # the bundled ones come first all the same
    assert resume.absolute(name) == name
