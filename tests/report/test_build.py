"""report.html and its data: complete, self-contained, honest about what is missing, harmless whatever files say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.report.build import interpolation_strip, write_report
from smartfast.report.run_data import headline, run_data

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


class Collector(HTMLParser):
    """Tags and sources of a page without its scripts' doing."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str | None] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]


def tags_of(path: Path) -> list[str]:
    page = Collector()
    page.feed(path.read_text())
    assert page.sources == ["data:,"]  # no icon
    return page.tags


def show(path: Path) -> dict[str, str]:
    return {"src": path.name}


def test_report_is_complete_and_needs_no_other_file(run_dir, read_report):
    target = write_report(run_dir)
    assert target == run_dir / "report.html"
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", target.read_text())  # the name of SVG, which none reads
    run = read_report(target)
    assert run["subtitle"] == "Data <digits>, batch 32, score term of digits with weight 0.01 every 8 steps"
    best = {row[0].split()[0]: row[2] for row in run["quality"]["rows"]}
    assert best == {"fd_digits": "8 (at 2 kimg)", "diversity_digits": "0.875 (at 4 kimg)"}  # the nearest to the data's
    assert [row[-1] for row in run["quality"]["rows"]] == ["9.5", "0.875"]
    assert [sheet["kimg"] for sheet in run["sheets"]] == [None, *range(2, 20, 2)]
    pictures = [run["reals"], run["strip"], *run["sheets"]]
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    assert dict(run["facts"])["Versions"] == f"torch {torch.__version__}"
    assert {"Discriminator loss", "Logits (mean)", "Training speed"} <= {panel["title"] for panel in run["panels"]}
    assert run["settings"]["smart.weight"] == "0.01" and run["progress"] == {"kimg": 4, "total": 8, "left": "1m 38s"}
    assert (run_dir / "interpolation000002.000.png").is_file() and run["strip"]["kimg"] == 2


def test_a_report_of_a_snapshot_opens_no_network(run_dir, read_report, monkeypatch):
    monkeypatch.setattr("smartfast.report.build.open_sampler", None)
    run = read_report(write_report(run_dir, strip=False))
    assert run["strip"] is None and run["strip_fault"] is None and len(run["sheets"]) == 10
    assert not list(run_dir.glob("interpolation*"))


def test_of_many_sheets_some_are_inside(run_dir, read_report):
    for kimg in range(20, 100, 2):
        (run_dir / f"fakes{kimg:06d}.png").write_bytes((run_dir / "fakes000002.png").read_bytes())
    kimg = [sheet["kimg"] for sheet in read_report(write_report(run_dir, strip=False))["sheets"]]
    assert len(kimg) == 13 and kimg[:2] == [None, 2] and kimg[-1] == 98
    assert len(run_data(run_dir, show)["sheets"]) == 50


def metric_rows(features: str | None, **values: float) -> list[dict]:
    named = {f"metric/{name}": value for name, value in values.items()} | {"metric/seconds": 3.0}
    about = {} if features is None else {"features": features}
    return [{"kind": "metrics", "kimg": kimg, **about, **named} for kimg in (0.0, 2.0)]


@pytest.mark.parametrize(
    ("features", "rows", "names", "titles"),
    [
        ("digits", metric_rows("digits", fd_digits=4.0), ["fd_digits"], ["Fréchet distance, digits features"]),
        ("inception", metric_rows("inception", fid=4.0), ["fid"], ["Fréchet distance (FID)"]),
        ("digits", metric_rows(None, fid=4.0), ["fd_digits"], ["Fréchet distance, digits features"]),
        ("inception", metric_rows(None, fid=4.0), ["fid"], ["Fréchet distance (FID)"]),
        ("digits", metric_rows(None, isc=4.0, kid=1.0), ["kd_digits", "cs_digits"], ["Classifier score, digits"]),
        ("inception", metric_rows(None, isc=4.0, kid=1.0), ["kid", "isc"], ["Inception score", "(KID)"]),
        ("digits", metric_rows(None, fid=9.0) + metric_rows("digits", fd_digits=4.0), ["fd_digits"], []),
        ("digits", metric_rows("inception", fid=9.0) + metric_rows("digits", fd_digits=4.0), ["fid", "fd_digits"], []),
        ("inception", metric_rows(None, precision=0.5, recall=0.1), ["precision_inception", "recall_inception"], []),
    ],
)  # fmt: skip
def test_every_metric_names_its_features(tmp_path, tick, write_log, features, rows, names, titles):
    """Rows without `features` are older than the names, and of the run's features."""
    (tmp_path / "config.yaml").write_text(f"metrics: {{features: {features}}}\n")
    write_log(tmp_path, [tick(1), *rows])
    quality = run_data(tmp_path, show)["quality"]
    assert [row[0].split()[0] for row in quality["rows"]] == names
    shown = [panel["title"] for panel in quality["panels"]]
    assert all(any(title in panel for panel in shown) for title in titles)
    assert ("FID" in " ".join(shown)) == ("fid" in names)


def test_report_of_an_almost_empty_run(tmp_path, write_log, read_report):
    write_log(tmp_path, [])
    run = read_report(write_report(tmp_path))
    assert run["facts"] == [["Training", "no tick has been logged yet"]]
    assert run["strip_fault"].startswith("Not available") and run["sheets"] == [] and run["costs"] == []


def test_no_log_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="found no metrics.jsonl"):
        write_report(tmp_path)


@pytest.mark.parametrize("content", ["a: [", "- 1\n", "5", "run: 7\n", "gan: {family: [1]}", "\x00", ""])
def test_any_config_is_shown_and_none_stops_the_page(run_dir, content):
    (run_dir / "config.yaml").write_text(content)
    run = run_data(run_dir, show)
    assert run["config"] and content in run["config"] or "cannot be read" in run["config"] or not content
    assert run["panels"]


def test_ops_that_are_switched_off_are_facts():
    facts = headline([], {"switched_off": {"finish": "its Triton kernels failed on this machine: no answer"}})
    assert facts == [("finish runs as plain PyTorch", "its Triton kernels failed on this machine: no answer")]


def test_headline_values(tick):
    facts = dict(headline([tick(1, images_per_sec=1.0), tick(2)], {"device": "a <GPU>", "versions": {"torch": "9"}}))
    assert facts["Real images seen"] == "4.0 thousand" and facts["Wall time"] == "14s"
    assert facts["Speed"].startswith("312.5 images/s, 3.20 s")
    assert facts["Skipped optimizer steps"] == "3" and facts["Memory"] == "1.20 GiB of main memory"
    assert facts["Device"] == "a <GPU>" and facts["Versions"] == "torch 9"


@pytest.mark.parametrize(("c_dim", "channels"), [(0, 3), (3, 1)])
def test_strip_rows_go_from_image_to_image(make_checkpoint, c_dim, channels):
    strip = interpolation_strip(open_sampler(make_checkpoint(c_dim=c_dim, channels=channels)))
    assert strip.shape == (50, channels, 8, 8) and strip.dtype == torch.uint8
    for row in strip.view(5, 10, -1).float():
        assert (row[0] - row[-1]).abs().mean() > (row[0] - row[1]).abs().mean() > 0


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", None])
@pytest.mark.parametrize("name", ["reals", "fakes000002"])
def test_a_sheet_that_cannot_be_read_is_named_in_its_place(content, name, run_dir, read_report):
    sheet = run_dir / f"{name}.png"
    sheet.write_bytes(sheet.read_bytes()[:-30] if content is None else content)
    (run_dir / "fakes1 (copy).png").write_bytes(b"")
    run = read_report(write_report(run_dir, strip=False))
    faults = [picture.get("fault") for picture in (run["reals"], *run["sheets"])]
    assert [fault for fault in faults if fault] == [f"{name}.png cannot be read."] and len(faults) == 11


def test_sheets_below_a_thousand_images_are_in_order(run_dir):
    for name in ("000000.040", "000001.002"):
        (run_dir / f"fakes{name}.png").write_bytes((run_dir / "fakes000002.png").read_bytes())
    assert [sheet["kimg"] for sheet in run_data(run_dir, show)["sheets"]][:4] == [None, 0.04, 1.002, 2]


@pytest.mark.parametrize("row", [{}, {"sec_per_tick": None}, {"images_per_sec": "fast"}, {"time_sec": []}])
def test_a_tick_without_its_times_is_left_out(row, run_dir, tick, write_log):
    bad = tick(3, **row) if row else {"kind": "tick", "kimg": 6.0}
    write_log(run_dir, [tick(1), bad, tick(2)])
    assert dict(run_data(run_dir, show)["facts"])["Real images seen"] == "4.0 thousand"


def test_what_files_say_is_never_markup(tmp_path, tick, write_log, read_report):
    """Names of folders, of settings, of phases and statistics, values and warnings."""
    run_dir = tmp_path / EVIL.replace("/", "")
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(f'data: {{path: "{EVIL}", "{EVIL}": 1}}\n')
    warning = {"kind": "warning", "kimg": 2.0, "signature": EVIL, "line": EVIL}
    write_log(run_dir, [tick(1, **{f"ms/{EVIL}": 1.0, f"count/{EVIL}": 3, f"{EVIL}": 2.0}), warning])
    target = write_report(run_dir)
    assert tags_of(target) == [
        "html",
        "head",
        *["meta"] * 3,
        "link",
        "title",
        "style",
        "body",
        "noscript",
        "script",
        "script",
    ]
    run = read_report(target)
    assert EVIL in run["subtitle"] and run["warnings"] == [[f"2 kimg, {EVIL}", EVIL]]
    assert EVIL in [row[0] for row in run["costs"]] and run["settings"][f"data.{EVIL}"] == "1"


def test_the_policy_allows_no_script_but_the_pages_own(run_dir):
    text = write_report(run_dir, strip=False).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and policy.count("script-src") == 1 and "script-src 'sha256-" in policy


def test_scripts_set_no_markup():
    """The ways in which a script makes markup or code of text."""
    files = list(Path(__file__).parents[2].glob("smartfast/report/web/*.js"))
    assert len(files) >= 4
    for file in files:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(", file.read_text()
        )
