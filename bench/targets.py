"""The speed targets of one H100, and whether a campaign on a GPU met them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.report_rows import Campaign, fastest, group, number, percent, timing_of
from bench.report_sections import score_overhead
from bench.report_table import markdown_table
from bench.results import Row
from bench.timing import differs

LARGE_BYTES = 64 << 20
HIGH_RESOLUTION = 128
PAPER256 = "lsun_bedroom256"
OURS, COMPILED = "ours", "compiled reference"


class Verdict(NamedTuple):
    """What a target came to. is_met: None where the campaign does not say."""

    target: str
    is_met: bool | None
    found: str


def targets_table(campaign: Campaign | None) -> str:
    """Every target with met, not met or not measured, and the number. None: there is no campaign on a GPU."""
    rows = campaign.rows if campaign else {}
    limits = campaign.limits_of("ops") if campaign else None
    ops, train, phases = (rows.get(suite, []) for suite in ("ops", "train", "phases"))
    verdicts = [
        _bandwidth(ops, limits.copy_bytes_per_sec if limits else None),
        _never_slower(ops),
        _high_resolution(ops),
        *_gan_step(train),
        _score_term(rows.get("regularizer", [])),
        *(
            _overhead(train, config, most)
            for config, most in (("cifar10", 0.12), ("imagenet64", 0.15), (PAPER256, 0.8))
        ),
        _idle(phases),
        _start_up(rows.get("startup", [])),
    ]
    words = {True: "met", False: "**not met**", None: "not measured"}
    return markdown_table(["target", "", "found"], [[v.target, words[v.is_met], v.found or None] for v in verdicts])


def _bandwidth(ops: Sequence[Row], copy_bytes_per_sec: float | None) -> Verdict:
    target = "memory-bound kernels at 64 MiB and more: at least 85 % of the copy bandwidth"
    rows = [row for row in ops if row["provider"] == OURS and timing_of(row) and not row.get("flops")]
    large = [row for row in rows if (row.get("bytes") or 0) >= LARGE_BYTES]
    if not large or copy_bytes_per_sec is None:
        return Verdict(target, None, "")
    shares = sorted(row["bytes"] / row["median_sec"] / copy_bytes_per_sec for row in large)
    found = f"{percent(shares[0])} at least, {percent(shares[len(shares) // 2])} in the middle of {len(shares)} calls"
    return Verdict(target, shares[0] >= 0.85, found)


def _pairs(ops: Sequence[Row], is_wanted: Callable[[Row], bool]) -> list[tuple[Row, Row]]:
    """The compiled reference and ours, of calls that both have a time for."""
    pairs = []
    for members in group(filter(is_wanted, ops), "op", "config", "layer", "mode", "dtype", "layout").values():
        by_provider = {row["provider"]: row for row in members if timing_of(row)}
        if OURS in by_provider and COMPILED in by_provider:
            pairs.append((by_provider[COMPILED], by_provider[OURS]))
    return pairs


def _never_slower(ops: Sequence[Row]) -> Verdict:
    target = "any op at any layer of the 256 networks, forward and backward: never slower than the compiled reference"
    pairs = _pairs(ops, lambda row: row.get("resolution") == 256 and row.get("mode") == "forward_backward")
    slower = [
        (reference, ours)
        for reference, ours in pairs
        if ours["median_sec"] > reference["median_sec"] and differs(*(timing_of(row) for row in (reference, ours)))  # type: ignore[arg-type]
    ]
    if not pairs:
        return Verdict(target, None, "")
    worst = max(slower, key=lambda pair: pair[1]["median_sec"] / pair[0]["median_sec"], default=None)
    found = f"slower in {len(slower)} of {len(pairs)} calls"
    if worst:
        found += f", at most {_times(worst[1]['median_sec'] / worst[0]['median_sec'])} ({worst[1].get('layer')})"
    return Verdict(target, not slower, found)


def _high_resolution(ops: Sequence[Row]) -> Verdict:
    target = f"modulated convolution from {HIGH_RESOLUTION} pixels on: at least 1.5x the compiled reference"
    pairs = _pairs(
        ops,
        lambda row: (
            row.get("op") == "modulated_conv2d"
            and row.get("mode") == "forward_backward"
            and int(row["shape"].rsplit("x", 1)[1]) >= HIGH_RESOLUTION
        ),
    )
    if not pairs:
        return Verdict(target, None, "")
    ratios = sorted(reference["median_sec"] / ours["median_sec"] for reference, ours in pairs)
    return Verdict(target, ratios[0] >= 1.5, f"{_times(ratios[0])} to {_times(ratios[-1])}")


def _gan_step(train: Sequence[Row]) -> list[Verdict]:
    rows = [row for row in train if row["config"] == PAPER256 and not row.get("score")]
    ours = fastest(row for row in rows if row["provider"] != "eager")
    eager = fastest(row for row in rows if row["provider"] == "eager")
    ratio = eager["median_sec"] / ours["median_sec"] if ours and eager else None
    cost = ours["sec_per_kimg"] if ours else None
    mfu = ours.get("mfu") if ours else None
    return [
        Verdict("GAN step at 256: at least 4x the eager path", ratio >= 4 if ratio else None, _times(ratio)),
        Verdict("GAN step at 256: at most 1.5 s/kimg", cost <= 1.5 if cost else None, number(cost, "s/kimg") or ""),
        Verdict("GAN step at 256: at least 30 % of the bf16 rate", mfu >= 0.3 if mfu else None, percent(mfu) or ""),
    ]


def _score_term(regularizer: Sequence[Row]) -> Verdict:
    target = "score term: at least 8x cheaper than the paper's recipe, eager in fp32"
    found = []
    for (config,), members in group([row for row in regularizer if row.get("kind") == "waterfall"], "config").items():
        steps = sorted(members, key=lambda row: row["order"])
        if timing_of(steps[0]) and timing_of(steps[-1]):
            found.append((steps[0]["sec_per_kimg"] / steps[-1]["sec_per_kimg"], config))
    text = ", ".join(f"{config} {_times(ratio)}" for ratio, config in found)
    return Verdict(target, min(found)[0] >= 8 if found else None, text)


def _overhead(train: Sequence[Row], config: str, most: float) -> Verdict:
    rows = [row for row in train if row["config"] == config and row["provider"] != "eager"]
    share = score_overhead(
        fastest(row for row in rows if not row.get("score")), fastest(row for row in rows if row.get("score"))
    )
    target = f"overhead of the score term, {config}: at most {percent(most)}"
    return Verdict(target, None if share is None else share <= most, percent(share) or "")


def _idle(phases: Sequence[Row]) -> Verdict:
    target = "GPU idle between kernels: at most 2 %"
    rows = [row for row in phases if row["provider"] == "cuda_graph" and row.get("idle_share") is not None]
    if not rows:
        return Verdict(target, None, "")
    worst = max(rows, key=lambda row: row["idle_share"])
    found = f"{percent(worst['idle_share'])} within the worst phase ({worst['config']}, {worst['phase']})"
    return Verdict(target, worst["idle_share"] <= 0.02, found)


def _start_up(rows: Sequence[Row]) -> Verdict:
    target = "start-up to the first iteration, warm cache: at most 60 s"
    warm = [row for row in rows if row.get("cache") == "filled" and timing_of(row)]
    worst = max(warm, key=lambda row: row["median_sec"], default=None)
    if worst is None:
        return Verdict(target, None, "")
    return Verdict(target, worst["median_sec"] <= 60, f"{number(worst['median_sec'], 's')} ({worst['config']})")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{number(ratio)}x"
