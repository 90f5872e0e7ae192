"""`smartfast export` and `smartfast.load`: the folder, the card, programs against the network, the hub's calls."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import smartfast
from smartfast.cli import main
from smartfast.core.best import keep_best
from smartfast.core.checkpoint import save_checkpoint
from smartfast.errors import UserError
from smartfast.families.sampling import Look
from smartfast.families.saved import open_sampler
from smartfast.networks.r3gan import Generator as R3Gan
from smartfast.networks.r3gan import R3GanOptions
from smartfast.tools.card import Facts, model_card
from smartfast.tools.export import ExportOptions, export
from smartfast.tools.generate import Request, drawn
from smartfast.tools.programs import FILES
from smartfast.tools.share import check_address

EVIL = "</td><script>alert(1)</script> | ![x](y) `z`"
CONFIG = f"""
run: {{dir: /home/somebody/runs/a, seed: 3, init_from: /home/somebody/other}}
data: {{path: /home/somebody/photos.zip, labels: true}}
smart: {{scorer: "adm:/home/somebody/256.pt", weight: 0.1}}
metrics: {{features: digits, samples: 500, weights: null}}
optim: {{lr_g: {{kind: linear, kimg: [0, 1], values: [1, 0]}}}}
perf: {{"note": "{EVIL}"}}
"""
ROWS = [
    {"kind": "metrics", "kimg": 1.0, "features": "digits", "metric/fd_digits": 9.0, "metric/seconds": 1.0},
    {"kind": "metrics", "kimg": 2.0, "features": "digits", "metric/fd_digits": 4.125, "metric/seconds": 1.0},
    {"kind": "metrics", "kimg": 3.0, "features": "digits", "metric/fd_digits": 2.0, "metric/seconds": 1.0},
]


@pytest.fixture
def run_dir(make_checkpoint: Callable, tmp_path: Path) -> Path:
    """A run of three classes, with a checkpoint at 2 kimg and metrics before, at and after it."""
    source = make_checkpoint(c_dim=3, channels=3) / "checkpoints/000002.000"
    folder = tmp_path / "run"
    target = folder / "checkpoints/000002.000"
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    info = json.loads((target / "checkpoint.json").read_text())
    info["dataset"] = {"name": "photos", "images": 1234, "fingerprint": "f", "class_names": ["cat", EVIL, "dog"]}
    (target / "checkpoint.json").write_text(json.dumps(info))
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def exported(run_dir: Path | str, out: Path, **changes: object) -> Path:
    assert export(ExportOptions(str(run_dir), str(out), **changes)) == out
    return out


def test_the_folder_has_what_others_need_and_nothing_of_this_machine(run_dir: Path, tmp_path: Path) -> None:
    out = exported(run_dir, tmp_path / "out")
    weights = ("generator_ema.safetensors", "generator_ema.json")
    assert {path.name for path in out.iterdir()} == {
        *weights,
        "checkpoint.json",
        "config.json",
        "samples.png",
        "README.md",
    }
    for name in weights:
        assert (out / name).read_bytes() == (run_dir / "checkpoints/000002.000" / name).read_bytes()
    settings = json.loads((out / "config.json").read_text())
    assert settings["data.path"] == "photos.zip" and settings["smart.scorer"] == "adm:256.pt"
    assert settings["run.seed"] == 3 and not {"run.dir", "run.init_from"} & settings.keys()
    index = json.loads((out / "checkpoint.json").read_text())
    assert index["metrics"] == [["fd_digits", "4.125", "digits", "2", "500", "lower is better"]]  # not of 3 kimg
    for path in out.iterdir():
        assert b"somebody" not in path.read_bytes(), path.name


def test_the_best_checkpoint_has_its_settings_and_metrics_too(run_dir: Path, tmp_path: Path) -> None:
    keep_best(run_dir, run_dir / "checkpoints/000002.000", metric="fd_digits", value=4.125, kimg=2.0)
    shutil.rmtree(run_dir / "checkpoints")
    out = exported(f"{run_dir}@best", tmp_path / "out")
    index = json.loads((out / "checkpoint.json").read_text())
    assert index["metrics"] == [["fd_digits", "4.125", "digits", "2", "500", "lower is better"]]
    assert json.loads((out / "config.json").read_text())["run.seed"] == 3


def test_metrics_have_the_number_of_samples_that_they_were_made_with(run_dir: Path, tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1] | {"samples": 2000}, ROWS[2]]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (metric,) = json.loads((exported(run_dir, tmp_path / "out") / "checkpoint.json").read_text())["metrics"]
    assert metric[4] == "2000", "metrics.samples is 500 by now"


def test_programs_of_an_earlier_export_go_with_its_weights(run_dir: Path, tmp_path: Path) -> None:
    out = exported(run_dir, tmp_path / "out")
    for file in FILES.values():
        (out / file).write_bytes(b"of other weights")
    exported(run_dir, out)
    assert not [file for file in FILES.values() if (out / file).exists()]


def test_where_converted_weights_come_from_outlives_an_export_of_an_export(run_dir: Path, tmp_path: Path) -> None:
    conversion = {"project": "stylegan2-ada-pytorch", "licence": "for non-commercial use"}
    (run_dir / "checkpoints/000002.000/conversion.json").write_text(json.dumps(conversion))
    first = exported(run_dir, tmp_path / "a")
    for out in (first, exported(first, tmp_path / "b")):
        assert "Converted from stylegan2-ada-pytorch: for non-commercial use" in (out / "README.md").read_text()


def test_the_folder_may_be_the_one_that_we_are_in(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert (exported(run_dir, Path(".")) / "README.md").read_text().count("# here\n") == 1


def test_every_command_takes_the_folder(run_dir: Path, tmp_path: Path) -> None:
    out = exported(run_dir, tmp_path / "out")
    for source, name in ((run_dir, "a"), (out, "b")):
        arguments = ["--seeds=1-3", "--classes=dog", f"--out={tmp_path / name}.png", "--device=cpu"]
        assert main(["generate", f"--checkpoint={source}", *arguments]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    again = exported(out, tmp_path / "again")  # an export of an export says the same
    for name in ("config.json", "checkpoint.json", "samples.png"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_the_card_says_what_is_known_and_what_is_not(run_dir: Path, tmp_path: Path) -> None:
    text = (exported(run_dir, tmp_path / "owls") / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "smartfast" and front["license"] == "other" and "stylegan2" in front["tags"]
    assert "# owls\n" in text and "8x8 pixels (RGB) of 3 classes" in text and "trained for 2 thousand images" in text
    assert r"| fd\_digits | 4.125 | digits | 2 | 500 | lower is better |" in text
    assert "Trained on photos, 1,234 images." in text and "*To be filled in*" in text
    assert '"kind": "linear"' in text.replace("\\", "")
    licensed = exported(run_dir, tmp_path / "owls", license="cc-by-4.0")
    text = (licensed / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "cc-by-4.0" and "To be filled in" not in text


def test_text_of_files_is_no_markup_of_the_card(run_dir: Path, tmp_path: Path) -> None:
    text = (exported(run_dir, tmp_path / "out") / "README.md").read_text()
    assert "<script" not in text and "![x]" not in text
    shown = r"&lt;/td&gt;&lt;script&gt;alert\(1\)&lt;/script&gt; \| \!\[x\]\(y\) \`z\`"
    assert text.count(shown) == 2  # the name of a class, and a setting


def test_the_three_lines_of_the_card_work(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (exported(run_dir, tmp_path / "out") / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    images = names["images"]
    assert isinstance(images, torch.Tensor) and images.shape == (16, 3, 8, 8) and images.dtype == torch.uint8


def test_loaded_images_are_those_of_the_sampler(run_dir: Path) -> None:
    generator, sampler = smartfast.load(str(run_dir)), open_sampler(run_dir)
    assert generator.class_names == ["cat", EVIL, "dog"] and generator.image_shape == (3, 8, 8)
    expected = torch.cat(list(drawn(sampler, Request(torch.tensor([5, 6]), torch.tensor([2, 0])), [sampler.look], 8)))
    for classes in ([2, 0], ["dog", "cat"], ["dog", 0]):
        assert torch.equal(generator.images([5, 6], classes), expected)
    one_hot = torch.eye(3)[[2, 0]]
    assert torch.equal(generator.images(iter((5, 6)), labels=one_hot), expected)
    assert torch.equal(generator.images([5, 6]), generator.images([5, 6], [2, 0]))  # seed modulo classes
    assert torch.equal(generator.images([6], 0, truncation_psi=0), generator.images([7], "cat", truncation_psi=0))
    assert generator.images([]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(seeds=[-1]), "seeds: found -1"),
        (dict(seeds=[2**32]), "seeds: found 4294967296"),
        (dict(seeds=[1, 2, 3], classes=[0, 1]), "classes: found 2, expected one, or one for each of 3 seeds"),
        (dict(seeds=[1], classes=3), "classes: found 3, expected an index from 0 to 2 or a name such as 'cat'"),
        (dict(seeds=[1], classes="cow"), "classes: found 'cow'"),
        (dict(seeds=[1], labels=torch.ones(1, 2)), r"labels: found [1, 2], expected [1, 3]"),
        (dict(seeds=[1], truncation_threshold=0.5), "StyleGAN2 truncates by psi"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(run_dir: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        smartfast.load(str(run_dir)).images(**arguments)


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nowhere", "./a/b", "a/b/c", "~/nowhere/at-all", "a/b c"):
        with pytest.raises(UserError):
            smartfast.load(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(out=None), "out: found neither --out nor --push"),
        (dict(push="digits"), "push is 'digits', expected a repository owner/name"),
        (dict(push="a/b/c"), "push is 'a/b/c'"),
        (dict(push="a/../b"), "push is 'a/../b'"),
        (dict(checkpoint="nowhere"), "nowhere: expected a run folder"),
    ],
)
def test_bad_options(run_dir: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        export(ExportOptions(**{"checkpoint": str(run_dir), "out": str(tmp_path / "out"), **changes}))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(run_dir: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "mine", run_dir, run_dir / "checkpoints/000002.000"):
        folder.mkdir(exist_ok=True)
        (folder / "README.md").write_text("mine")
        with pytest.raises(UserError, match="has other files, expected a new folder or one of an earlier export"):
            export(ExportOptions(str(run_dir), str(folder)))
        assert (folder / "README.md").read_text() == "mine"


def r3gan_run(folder: Path) -> Path:
    """An unconditional generator of another family, with random weights."""
    options = dict(widths=[8, 8], cardinalities=[4, 4], blocks=[1, 1], channels=1)
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = R3Gan(8, R3GanOptions(**options)).state_dict()
    built = {"family": "r3gan", "z_dim": 8, **options}
    save_checkpoint(
        folder, images=1000, state={"a": torch.ones(1)}, generator=state, generator_options=built, info={}, keep=1
    )
    return folder


RUN_PROGRAM = """
import sys, torch
kind, out, folder = sys.argv[1:]
sys.modules["smartfast"] = None
given = torch.load(folder + "/given.pt")
if kind == "torch":
    found = torch.export.load(out + "/generator.pt2").module()(*given)
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(out + "/generator.onnx", providers=["CPUExecutionProvider"])
    named = {one.name: value.numpy() for one, value in zip(session.get_inputs(), given)}
    found = torch.from_numpy(session.run(None, named)[0])
torch.save(found.detach(), folder + "/found.pt")
"""


@pytest.mark.slow
def test_torch_exports_program_draws_the_same(run_dir: Path, tmp_path: Path) -> None:
    out = exported(run_dir, tmp_path / "out", programs=("torch",), truncation_psi=0.7)
    sampler = open_sampler(run_dir)
    program = torch.export.load(out / "generator.pt2").module()
    z, c = torch.randn(5, 8), torch.eye(3)[[0, 1, 2, 0, 1]]
    with torch.no_grad():
        assert (program(z, c) - sampler.module(z, c, 0.7)).abs().max() <= 1e-4
        assert (program(z, c) - sampler.module(z, c, 1.0)).abs().max() > 1e-2
    card = (out / "README.md").read_text()
    assert "| `generator.pt2` | " in card and "psi 0.7" in card


@pytest.mark.slow
def test_onnx_draws_the_same(run_dir: Path, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")
    out = exported(run_dir, tmp_path / "out", programs=("onnx",))
    session = runtime.InferenceSession(str(out / "generator.onnx"), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["z", "c"]
    z, c = torch.randn(4, 8), torch.eye(3)[[0, 1, 2, 0]]
    (images,) = session.run(["images"], {"z": z.numpy(), "c": c.numpy()})
    with torch.no_grad():
        assert (torch.from_numpy(images) - open_sampler(run_dir).module(z, c)).abs().max() <= 1e-4


@pytest.mark.slow
def test_a_program_of_another_family_without_labels(tmp_path: Path) -> None:
    run = r3gan_run(tmp_path / "run")
    out = exported(run, tmp_path / "out", programs=("torch",))
    z = torch.randn(3, 8)
    with torch.no_grad():
        difference = torch.export.load(out / "generator.pt2").module()(z) - open_sampler(run).module(z, None)
    assert difference.abs().max() <= 1e-4
    with pytest.raises(UserError, match="R3GAN has neither truncation nor noise"):
        exported(run, tmp_path / "other", programs=("torch",), truncation_psi=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx"])
@pytest.mark.parametrize("family", ["aurora", "biggan", "r3gan"])
def test_a_program_of_every_family_needs_nothing_of_ours(family: str, kind: str, tmp_path: Path) -> None:
    """Read and run in a process that cannot import smartfast, and therefore has no op of its."""
    if kind == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    run = tmp_path / "run"
    settings = ["--run.kimg=0.032", "--optim.batch=16", "--smart.frequency=0", "--metrics.every_ticks=0"]
    assert main(["train", f"--config={family}_digits", f"--run.dir={run}", "--run.tracker=none", *settings]) == 0
    if (family, kind) == ("aurora", "onnx"):  # whose convolutions have as many groups as there are images
        with pytest.raises(UserError, match=r"generator.onnx: this network has no such form \(Error when translating"):
            exported(run, tmp_path / "out", programs=(kind,))
        return
    out = exported(run, tmp_path / "out", programs=(kind,))
    sampler = open_sampler(run)
    z, c = torch.randn(4, *sampler.z_shape), torch.eye(max(sampler.num_classes, 1))[[0, -1, 0, -1]]
    given = (z, c) if sampler.num_classes else (z,)
    torch.save(given, tmp_path / "given.pt")
    command = [sys.executable, "-c", RUN_PROGRAM, kind, str(out), str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""})
    with torch.no_grad():
        expected = sampler.images(
            z, given[1] if sampler.num_classes else None, torch.zeros(4, dtype=torch.int64), Look()
        )
    found = torch.load(tmp_path / "found.pt")
    assert found.shape == expected.shape and (found - expected).abs().max() <= 1e-4


def test_a_program_that_differs_is_refused_and_nothing_is_left(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartfast.tools.programs._write", lambda *arguments: None)
    monkeypatch.setattr("smartfast.tools.programs._difference", lambda *arguments: 2e-4)
    with pytest.raises(UserError, match=r"generator.pt2: differs by 0.0002 from the network, expected at most 0.0001"):
        export(ExportOptions(str(run_dir), str(tmp_path / "out"), programs=("torch",)))
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_before_anything_is_done(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"programs: onnx needs onnx, onnxscript, onnxruntime, expected them: pip install"
    ):
        export(ExportOptions(str(run_dir), str(tmp_path / "out"), programs=("onnx",)))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of commands that are to take the stand-in for the hub."""
    (tmp_path / "hub").mkdir()
    command = [sys.executable, "-S", str(Path(__file__).with_name("hub_stand_in.py")), str(tmp_path / "hub")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        own = dict(HF_ENDPOINT=address, HF_HOME=str(tmp_path / "home"), HF_TOKEN="hf_owner", HF_HUB_DISABLE_XET="1")
        yield {**os.environ, **own, "HF_HUB_DISABLE_TELEMETRY": "1"}
        server.kill()


@pytest.mark.slow
def test_to_the_hub_and_back(run_dir: Path, tmp_path: Path, hub: dict[str, str]) -> None:
    def run(*command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = hub | changes
        return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300)

    push = ("-m", "smartfast", "export", str(run_dir), "--push", "somebody/owls")
    refused = run(*push, HF_TOKEN="hf_other")
    assert refused.returncode == 2 and "push: somebody/owls: " in refused.stderr and "hf auth login" in refused.stderr
    assert "hf_other" not in refused.stderr + refused.stdout and len(refused.stderr.splitlines()) == 1
    pushed = run(*push)
    assert pushed.returncode == 0 and "/somebody/owls/commit/" in pushed.stdout, pushed.stderr
    there = tmp_path / "hub/somebody/owls"
    assert (there / ".private").read_text() == "true" and 'load("somebody/owls")' in (there / "README.md").read_text()
    kept = load_file(run_dir / "checkpoints/000002.000/generator_ema.safetensors")
    sent = load_file(there / "generator_ema.safetensors")
    assert kept.keys() == sent.keys() and all(torch.equal(kept[name], sent[name]) for name in kept)
    code = "import smartfast; print(int(smartfast.load('somebody/owls').images(range(4), 'dog').long().sum()))"
    fetched = run("-c", code)
    expected = int(smartfast.load(str(run_dir)).images(range(4), "dog").long().sum())
    assert fetched.stdout.strip() == str(expected), fetched.stderr
    (there / "generator.onnx").write_bytes(b"of other weights")
    assert run(*push).returncode == 0 and not (there / "generator.onnx").exists() and (there / "README.md").exists()
    nothing = run("-c", "import smartfast; smartfast.load('somebody/nothing')")
    assert "somebody/nothing: no such folder, and no download from the hub" in nothing.stderr.splitlines()[-1]


def test_addresses() -> None:
    for good in ("a/b", "some-body/owls_2.1"):
        check_address(good, "push")
    for bad in ("", "a", "/a", "a/", "a/b/c", "a b/c", "a/<b>", "../a", "a/b\n"):
        with pytest.raises(UserError, match="^push is "):
            check_address(bad, "push")


def test_a_card_of_weights_about_which_nothing_is_known() -> None:
    facts = Facts("x", "stylegan2", (1, 8, 8), 0, False, None, 10, origin="Converted from <p>: MIT")
    text = model_card(facts)
    assert "Not known." in text and "None were computed." in text and "Converted from &lt;p&gt;: MIT." in text
    assert "images(range(16))" in text and "without labels" in text and "## Training" not in text
