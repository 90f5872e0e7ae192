"""The report: from files alone, trials left out, differences inside the spread called noise, predictions called so."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.base.limits import Limits
from bench.base.results import Result, Row
from bench.count.sizes import usual_cases
from bench.report import targets
from bench.report.compare import compare
from bench.report.report import END, START, write_report
from bench.report.rows import campaigns
from bench.suites import ops as suite_ops
from smartfast.errors import UserError

LIMITS = Limits(copy_bytes_per_sec=3e12, flops_per_sec={"fp32": 5e13, "bf16": 7e14}, launch_sec=2e-6)
GPU = {"type": "cuda", "name": "NVIDIA H100 80GB HBM3", "power_limit_watts": 700.0, "driver": "580.1"}
CPU = {"type": "cpu", "name": "A CPU", "threads": 2}


def timed(median_sec: float, **more: Any) -> Row:
    spread = dict(p20_sec=0.99 * median_sec, p80_sec=1.01 * median_sec, repeats=10, calls=1, peak_bytes=2 << 20)
    return {"median_sec": median_sec, **spread, **more}


def result(suite: str, rows: Sequence[Row], day: int = 1, device: dict[str, Any] = GPU, quick: bool = False) -> Result:
    return Result(
        path=Path(f"2026110{day}T000000-device-{suite}.json"),
        suite=suite,
        command=f"python -m bench {suite}",
        quick=quick,
        started=f"2026-11-0{day}T00:00:00+00:00",
        commit="abc1234",
        device=device,
        versions={"torch": "2.14.1"},
        limits=None if suite == "roofline" else LIMITS,
        duration_sec=12.0,
        stopped=None,
        skipped=[],
        rows=list(rows),
    )


def ops() -> Result:
    about = dict(op="modulated_conv2d", config="lsun_bedroom256", resolution=256, mode="forward_backward", dtype="bf16")
    about |= dict(layer="G b256.conv1", layout="nhwc", shape="16x64x256x256", flops=7e11, bytes=3e9, floor_sec=1e-3)
    move = dict(op="bias_act", config="lsun_bedroom256", resolution=256, mode="forward", dtype="bf16", layout="nhwc")
    move |= dict(layer="D b256.conv0", shape="16x64x256x256", flops=0, bytes=3e8, floor_sec=1e-4)
    return result(
        "ops",
        [
            timed(8e-3, **about, provider="reference"),
            timed(4e-3, **about, provider="compiled reference"),
            timed(2e-3, **about, provider="ours"),
            {**about, "provider": "grouped convolution", "error": "wrong: relative error 0.5, expected at most 0.01"},
            timed(2e-4, **move, provider="reference"),
            timed(1.25e-4, **move, provider="ours"),
            timed(1e-4, **move, provider="copy"),
        ],
    )


def regularizer() -> Result:
    about = dict(kind="waterfall", config="lsun_bedroom256", scorer="ADM", resolution=256, batch=8, frequency=8)
    steps = [("the paper's recipe", 0.8), ("shared fakes", 0.792), ("CUDA graph", 0.08)]
    return result(
        "regularizer",
        [
            timed(sec, **about, order=order, step=step, sec_per_kimg=10 * sec, cosine=0.9999, norm_ratio=1.0)
            for order, (step, sec) in enumerate(steps)
        ],
    )


def train(day: int = 1, sec: float = 1.0, device: dict[str, Any] = GPU, quick: bool = False) -> Result:
    about = dict(config="lsun_bedroom256", dtype="fp16", batch=64, batch_gpu=8, mfu=0.4, iterations=16)
    idle = dict(launches=16e3, idle_share=0.015)
    rows = [
        timed(6 * sec, **about, provider="reference", score=False, sec_per_kimg=6.0 * sec),
        timed(sec, **about, **idle, provider="cuda_graph", score=False, sec_per_kimg=sec),
        timed(
            1.9 * sec, **about, **idle, provider="cuda_graph", score=True, sec_per_kimg=1.9 * sec, images_per_sec=526.0
        ),
    ]
    return result("train", rows, day, device, quick)


def phases() -> Result:
    about = dict(config="lsun_bedroom256", dtype="fp16", batch=64, floor_sec=0.01, sec_per_kimg=0.3)
    return result(
        "phases",
        [
            timed(sec, **about, phase=phase, provider=provider, launches=9, idle_share=0.015)
            for phase in ("d_main", "g_main")
            for provider, sec in (("reference", 0.05), ("cuda_graph", 0.02))
        ],
    )


def startup() -> Result:
    about = dict(dtype="fp16", provider="compiled")
    starts = [("cifar10", "empty", 300.0), ("cifar10", "filled", 20.0), ("lsun_bedroom256", "filled", 61.0)]
    return result("startup", [timed(sec, **about, config=config, cache=cache) for config, cache, sec in starts])


def roofline() -> Result:
    rows = [
        dict(config="cifar10", device="H100 SXM", source="a datasheet", gpus=1, batch=64, precision="fp16", phase=phase)
        | dict(floor_sec=0.1, floor_sec_per_kimg=cost, score_overhead=0.11)
        for phase, cost in (("g_main", 0.04), ("all", 0.125))
    ]
    return result("roofline", rows, device=CPU)


def render(results: Sequence[Result], folder: Path) -> tuple[str, str, list[Path]]:
    readme = folder / "README.md"
    folder.mkdir(exist_ok=True)
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    written = write_report(results, folder / "bench", readme)
    return (folder / "bench" / "RESULTS.md").read_text(), readme.read_text(), written


def calls(layers: Sequence[str]) -> list[Row]:
    """What a whole ops suite has, were it the layers of `ops` and others like them."""
    keys = ("op", "config", "resolution", "mode", "dtype", "layout", "shape", "flops")
    names = [{key: row[key] for key in keys} for row in ops().rows if row["provider"] == "ours"]
    return [{**name, "layer": layer} for name in names for layer in layers]


def test_targets_of_the_ops_are_met_by_all_calls_of_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "every_call", lambda device_type: calls(["G b256.conv1"])[:1])
    text, _, _ = render([ops()], tmp_path)
    assert "| met | slower in 0 of 1 calls |" in text and "| met | 2x to 2x in 1 calls |" in text


@pytest.mark.slow
def test_the_whole_ops_suite_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file alone does not say what an interrupted suite would have measured."""
    listed = usual_cases("lsun_bedroom256", "cuda", ("--smart.frequency=0",))
    monkeypatch.setattr(suite_ops, "suite_cases", lambda *_: listed)
    whole = suite_ops.every_call("cuda")
    assert len({tuple(row[key] for key in targets._CALL) for row in whole}) == len(whole)
    # The call of `ops` is in bf16, which no preset has.
    missing = sum(row["resolution"] == 256 and row["mode"] == "forward_backward" for row in whole)
    text, _, _ = render([ops()], tmp_path)
    assert missing > 50 and f"| incomplete | slower in 0 of 1 calls; {missing} calls without both times |" in text


def test_a_gpu_campaign_becomes_tables_plots_and_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "every_call", lambda device_type: calls(["G b256.conv1", "D b256.conv0"]))
    text, readme, written = render([ops(), regularizer(), train(), phases(), startup()], tmp_path)
    assert "| shared fakes | 7.92 (7.84 to 8) | noise (1.01x) | noise (1.01x) | - | 2 | 0.99990 | 1.00000 |" in text
    assert "| CUDA graph | 0.8 (0.792 to 0.808) | 9.90x | 10.00x |" in text
    assert (
        "| lsun_bedroom256 | fp16 | 64 | d_main | 50 (49.5 to 50.5) | 20 (19.8 to 20.2) | 2.50x | 10 | 50 % |" in text
    )
    assert "| 2.00x, 1/0/0; 25 % of limit; 1x memory | 4.00x, 1/0/0; 50 % of limit; 1x memory | - | - |" in text
    assert "- 1 x wrong: relative error 0.5, expected at most 0.01 (lsun_bedroom256, modulated_conv2d" in text
    assert "forward | **not met** | 80 % at least, 80 % in the middle of 1 calls; 1 calls without both times |" in text
    assert "| incomplete | slower in 0 of 1 calls; 1 calls without both times |" in text
    assert "| incomplete | 2x to 2x in 1 calls; 1 calls without both times |" in text
    assert "| met | 6x |" in text and "| met | 1 s/kimg, 8 images at a time |" in text
    assert "eager in fp32 | incomplete | lsun_bedroom256 10x |" in text
    assert "lsun_bedroom256: at most 80 % | **not met** | 90 % |" in text
    assert "| incomplete | 1.5 % within 16 iterations of lsun_bedroom256 |" in text
    assert "warm cache: at most 60 s | **not met** | 61 s (lsun_bedroom256) |" in text
    assert "| cifar10 | fp16 | compiled | empty | 300 | 297 | 303 |" in text
    assert "cifar10: at most 12 % | not measured | - |" in text
    assert "| bf16 product, GFLOP/s | 700,000 | 700,000 | 700,000 | 700,000 | 700,000 |" in text
    assert "Predictions" not in text
    assert readme.startswith(f"before\n{START}\nMeasured on NVIDIA H100") and readme.endswith(f"{END}\nafter\n")
    assert (
        "| lsun_bedroom256 | 1 (0.99 to 1.01) | 1.9 (1.88 to 1.92) | 90 % | - | 10.00x |" in readme
        and "old" not in readme
    )
    plots = [path for path in written if path.suffix == ".png"]
    assert [path.name.rsplit("-", 1)[1] for path in plots] == ["regularizer.png", "phases.png", "roofline.png"]
    assert all(f"plots/{path.name}" in text and path.stat().st_size > 10_000 for path in plots)


@pytest.mark.parametrize("whole", [ops, regularizer, train, phases, startup])
@pytest.mark.parametrize("about", [{}, {"kind": "waterfall"}, {"op": "bias_act", "layer": "x", "mode": "forward"}])
def test_a_part_that_failed_is_an_error_beside_the_rest(
    tmp_path: Path, whole: Callable[[], Result], about: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "every_call", lambda device_type: calls(["G b256.conv1", "D b256.conv0"]))
    result = whole()
    failure = {"config": "cifar10", **about, "error": "OutOfMemoryError: no memory"}
    complete, readme, _ = render([result], tmp_path / "complete")
    with_failure = replace(result, rows=[failure, *result.rows])
    text, readme_with_failure, _ = render([with_failure], tmp_path / "failed")
    assert "1 x OutOfMemoryError: no memory (cifar10" in text
    assert set(complete.splitlines()) <= set(text.splitlines()) and readme_with_failure == readme
    text, _, _ = render([replace(result, rows=[failure])], tmp_path / "alone")
    assert "1 x OutOfMemoryError: no memory (cifar10" in text


def test_without_a_gpu_predictions_are_called_so_and_the_command_is_named(tmp_path: Path) -> None:
    text, readme, _ = render([roofline(), train(device=CPU)], tmp_path)
    assert "## Predictions, measured by nobody" in text and "| cifar10 | 64 | fp16 | 0.04 | 0.125 | 11 % |" in text
    assert "`python -m bench all --device cuda`" in text and "| met |" not in text
    assert "**Predictions, not measurements**" in readme and "Measured on A CPU, 2 threads" in readme


def test_skipped_steps_are_named(tmp_path: Path) -> None:
    some = train()
    assert "skipped" not in render([some], tmp_path / "none")[0]
    some.rows[1]["skipped_steps"] = 3
    text, _, _ = render([some], tmp_path / "some")
    assert "Optimizer steps skipped because something was not finite: lsun_bedroom256, cuda_graph: 3." in text


def test_a_target_below_its_floors_is_named(tmp_path: Path) -> None:
    below, above = roofline(), roofline()
    above.rows[1]["score_overhead"] = 0.2
    sentence = "For cifar10 the target is 12 %, below the floors' 20 %"
    assert sentence not in render([below], tmp_path / "below")[0]
    assert sentence in render([above], tmp_path / "above")[0]


def test_the_newest_file_of_each_suite_and_configuration_counts_and_trials_do_not(tmp_path: Path) -> None:
    other = replace(train(day=2, sec=3.0), rows=[timed(7.0, config="cifar10", provider="reference", sec_per_kimg=7.0)])
    (campaign,) = campaigns([train(day=1), other, train(day=3, sec=2.0), train(day=4, sec=9.0, quick=True)])
    assert [row["median_sec"] for row in campaign.rows["train"]] == [12.0, 2.0, 3.8, 7.0]
    assert [file.started[9] for file in campaign.results] == ["2", "3"]
    interrupted = replace(train(day=5, sec=5.0), stopped="KeyboardInterrupt: ")
    (campaign,) = campaigns([train(day=1), interrupted])
    assert campaign.rows["train"][0]["median_sec"] == 6.0
    with pytest.raises(UserError, match="no results"):
        write_report([train(quick=True)], tmp_path, None)


def test_a_readme_needs_its_markers(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(UserError, match="expected the markers"):
        write_report([train()], tmp_path, tmp_path / "README.md")


def test_two_runs_side_by_side() -> None:
    a, b = train(), train(day=2, sec=1.005)
    b.rows[0] = timed(
        3.0, **{key: b.rows[0][key] for key in ("config", "dtype", "batch", "batch_gpu", "provider", "score")}
    )
    b.rows.append(timed(1.0, config="cifar10", provider="reference", score=True))
    text = compare(a, b)
    assert "| reference | False | 6,000 (5,940 to 6,060) | 3,000 (2,970 to 3,030) | 2.00x |" in text
    assert text.count("| noise (1.00x) |") == 2
    assert "Only in A: 0 rows, only in B: 1." in text and "python -m bench train" in text
    assert text.count("limits: copy 3,000 GB/s, fp32 50,000 GFLOP/s, bf16 700,000 GFLOP/s") == 2
