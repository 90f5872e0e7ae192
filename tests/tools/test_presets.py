"""The table of `smartfast presets`."""

import subprocess
import sys

import smartfast.tools.presets as tools
from smartfast.cli import main
from smartfast.config.parse import presets
from smartfast.tools.presets import presets_table


def columns(table: str) -> dict[str, dict[str, str]]:
    """Cells by preset and row, found by the places of the names in the header of each part."""
    found: dict[str, dict[str, str]] = {}
    for part in table.split("\n\n"):
        header, *rows = part.splitlines()
        starts = {name: header.index(f"  {name}") + 2 for name in header.split()}
        ends = [*list(starts.values())[1:], None]
        for (name, start), end in zip(starts.items(), ends, strict=True):
            found[name] = {row[: min(starts.values())].strip(): row[start:end].strip() for row in rows}
    return found


def said(table: str) -> dict[str, dict[str, str]]:
    """Without "-": a row that has nothing else is left out of a part."""
    return {name: {row: cell for row, cell in cells.items() if cell != "-"} for name, cells in columns(table).items()}


def test_every_preset_is_a_column_of_at_most_120_characters_in_all(capsys) -> None:
    assert main(["presets"]) == 0
    table = capsys.readouterr().out.rstrip("\n")
    assert max(map(len, table.splitlines())) <= 120
    found = columns(table)
    assert list(found) == presets()
    assert (
        found["cifar10"]
        | {
            "data": "cifar10.zip",
            "resolution": "32",
            "batch": "64",
            "R1 gamma": "0.01 every 16",
            "noise to signal": "0.005 to 0.0078",
            "scorer": "edm-cifar10-32x32-cond-vp.pkl",
            "you set": "data.path, smart.scorer",
        }
        == found["cifar10"]
    )
    assert found["digits"]["you set"] == "nothing" and found["digits"]["feature maps"] == "512 / r, at most 64"
    assert found["lsun_bedroom256"]["you set"] == "data.path"
    assert (found["r3gan_cifar10"]["feature maps"], found["r3gan_cifar10"]["z, w"]) == ("768 768 768 768", "64")
    assert found["biggan_imagenet128"]["feature maps"] == "width G 96, D 96"
    assert found["biggan_imagenet128"]["generator"] == "attention at 64 pixels"
    aurora = found["aurora_imagenet64"]
    assert aurora["generator"] == "3 3 3 2 2 blocks, 0 4 8 16 16 experts"
    assert (aurora["feature maps"], aurora["z, w"]) == ("16384 / r, at most 1600", "128, 1024")


def test_columns_that_do_not_fit_go_below() -> None:
    table = presets_table(width=70)
    assert table.count("\n\n") >= 1 and max(map(len, table.splitlines())) <= 70
    assert said(table) == said(presets_table())


def test_a_preset_of_another_family_and_one_with_schedules_have_columns(monkeypatch, tmp_path) -> None:
    other, scheduled = tmp_path / "other.yaml", tmp_path / "scheduled.yaml"
    other.write_text("gan: {family: denoiser}\nsmart: {frequency: 0}\ndata: {path: digits}\n")
    scheduled.write_text("optim: {lr_g: {kind: linear, kimg: [0, 10], values: [0.002, 0.001]}}\ndata: {path: digits}\n")
    monkeypatch.setattr(tools, "presets", lambda: [str(other), str(scheduled)])
    left, right = columns(tools.presets_table(width=1000)).values()
    assert (left["family"], left["generator"], left["R1 gamma"], left["score term"]) == ("denoiser", "-", "-", "off")
    assert right["family"] == "-" and right["lr G, D"] == "linear 0.002 to 0.001, 0.0025"


def test_it_takes_no_arguments(capsys) -> None:
    assert main(["presets", "cifar10"]) == 2
    assert "presets takes no arguments, found cifar10" in capsys.readouterr().err


def test_it_needs_no_torch() -> None:
    code = "import sys; from smartfast.cli import main; main(['presets']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
