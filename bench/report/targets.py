"""The speed targets of one H100, and whether a campaign on a GPU met them."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from bench.base.results import Row
from bench.base.ways import COMPILED, COPY, OURS, REFERENCE
from bench.report.rows import Campaign, fastest, group, number, percent, row_differs, timing_of
from bench.report.sections import score_overhead
from bench.report.table import markdown_table
from bench.suites.ops import every_call

LARGE_BYTES = 64 << 20
HIGH_RESOLUTION = 128
_CALL = ("op", "config", "layer", "mode", "dtype", "layout")
"""What names a call among the rows of ops."""
PAPER256 = "lsun_bedroom256"
MOST_OVERHEAD = {"cifar10": 0.12, "imagenet64": 0.15, PAPER256: 0.8}


class Verdict(NamedTuple):
    """What a target came to. is_met: None where the campaign does not say, or not yet, where something was found."""

    target: str
    is_met: bool | None
    found: str


def targets_table(campaign: Campaign | None) -> str:
    """Every target with met, not met or not measured, and the number. None: there is no campaign on a GPU."""
    rows = campaign.rows if campaign else {}
    ops, train = (rows.get(suite, []) for suite in ("ops", "train"))
    verdicts = [
        _bandwidth(ops),
        _never_slower(ops),
        _high_resolution(ops),
        *_gan_step(train),
        _score_term(rows.get("regularizer", [])),
        *(_overhead(train, config, most) for config, most in MOST_OVERHEAD.items()),
        _idle(train),
        _start_up(rows.get("startup", [])),
    ]
    return markdown_table(["target", "", "found"], [[v.target, _word(v), v.found or None] for v in verdicts])


def _word(verdict: Verdict) -> str:
    if verdict.is_met is None:
        return "incomplete" if verdict.found else "not measured"
    return "met" if verdict.is_met else "**not met**"


def _met(is_good: bool, is_whole: bool) -> bool | None:
    """A target is missed by a part of what it is about, and met by all of it."""
    return is_whole or None if is_good else False


def _bandwidth(ops: Sequence[Row]) -> Verdict:
    """Of forward passes: a gradient reads again what the forward pass read, which least bytes leave out."""
    target = "memory-bound kernels at 64 MiB and more: at least 85 % of a copy's bandwidth, forward"

    def is_wanted(row: Row) -> bool:
        return row.get("mode") == "forward" and not row.get("flops")

    pairs = _pairs(ops, COPY, is_wanted)
    shares = sorted(copy["median_sec"] / ours["median_sec"] for copy, ours in pairs if ours["bytes"] >= LARGE_BYTES)
    if not shares:
        return Verdict(target, None, "")
    missing = _not_measured(pairs, is_wanted)
    found = f"{percent(shares[0])} at least, {percent(shares[len(shares) // 2])} in the middle of {len(shares)} calls"
    return Verdict(target, _met(shares[0] >= 0.85, not missing), f"{found}{_calls_missing(missing)}")


def _pairs(ops: Sequence[Row], other: str, is_wanted: Callable[[Row], bool]) -> list[tuple[Row, Row]]:
    """Another provider and ours, of calls that both have a time for."""
    pairs = []
    for members in group(filter(is_wanted, ops), *_CALL).values():
        by_provider = {row["provider"]: row for row in members if timing_of(row)}
        if OURS in by_provider and other in by_provider:
            pairs.append((by_provider[other], by_provider[OURS]))
    return pairs


def _not_measured(pairs: Sequence[tuple[Row, Row]], is_wanted: Callable[[Row], bool]) -> int:
    """Calls of the whole suite that are wanted and not among the pairs: failed, wrong, or left out for want of time."""
    wanted = group(filter(is_wanted, every_call("cuda")), *_CALL)
    return len(wanted.keys() - group((ours for _, ours in pairs), *_CALL).keys())


def _calls_missing(missing: int) -> str:
    return f"; {missing} calls without both times" if missing else ""


def _never_slower(ops: Sequence[Row]) -> Verdict:
    target = "any op at any layer of the 256 networks, forward and backward: never slower than the compiled reference"

    def is_wanted(row: Row) -> bool:
        return row.get("resolution") == 256 and row.get("mode") == "forward_backward"

    pairs = _pairs(ops, COMPILED, is_wanted)
    slower = [
        (reference, ours)
        for reference, ours in pairs
        if ours["median_sec"] > reference["median_sec"] and row_differs(reference, ours)
    ]
    if not pairs:
        return Verdict(target, None, "")
    missing = _not_measured(pairs, is_wanted)
    worst = max(slower, key=lambda pair: pair[1]["median_sec"] / pair[0]["median_sec"], default=None)
    found = f"slower in {len(slower)} of {len(pairs)} calls"
    if worst:
        found += f", at most {_times(worst[1]['median_sec'] / worst[0]['median_sec'])} ({worst[1].get('layer')})"
    return Verdict(target, _met(not slower, not missing), f"{found}{_calls_missing(missing)}")


def _high_resolution(ops: Sequence[Row]) -> Verdict:
    target = f"modulated convolution from {HIGH_RESOLUTION} pixels on: at least 1.5x the compiled reference"

    def is_wanted(row: Row) -> bool:
        is_convolution = row.get("op") == "modulated_conv2d" and row.get("mode") == "forward_backward"
        return is_convolution and int(row["shape"].rsplit("x", 1)[1]) >= HIGH_RESOLUTION

    pairs = _pairs(ops, COMPILED, is_wanted)
    if not pairs:
        return Verdict(target, None, "")
    ratios = sorted(reference["median_sec"] / ours["median_sec"] for reference, ours in pairs)
    missing = _not_measured(pairs, is_wanted)
    found = f"{_times(ratios[0])} to {_times(ratios[-1])} in {len(pairs)} calls{_calls_missing(missing)}"
    return Verdict(target, _met(ratios[0] >= 1.5, not missing), found)


def _gan_step(train: Sequence[Row]) -> list[Verdict]:
    rows = [row for row in train if row["config"] == PAPER256 and not row.get("score")]
    ours = fastest(row for row in rows if row["provider"] != REFERENCE)
    reference = fastest(row for row in rows if row["provider"] == REFERENCE)
    ratio = reference["median_sec"] / ours["median_sec"] if ours and reference else None
    cost = ours["sec_per_kimg"] if ours else None
    mfu = ours.get("mfu") if ours else None
    rounds = f", {ours['batch_gpu']} images at a time" if ours and ours.get("batch_gpu") else ""
    found = [_times(ratio), number(cost, "s/kimg") or "", percent(mfu) or ""]
    return [
        Verdict("GAN step at 256: at least 4x the eager reference", ratio >= 4 if ratio else None, found[0]),
        Verdict("GAN step at 256: at most 1.5 s/kimg", cost <= 1.5 if cost else None, found[1] and found[1] + rounds),
        Verdict("GAN step at 256: at least 30 % of the bf16 rate", mfu >= 0.3 if mfu else None, found[2]),
    ]


def _score_term(regularizer: Sequence[Row]) -> Verdict:
    target = "score term: at least 8x cheaper than the paper's recipe, eager in fp32"
    found = {}
    for (config,), members in group([row for row in regularizer if row.get("kind") == "waterfall"], "config").items():
        steps = sorted((row for row in members if "order" in row), key=lambda row: row["order"])
        if steps and timing_of(steps[0]) and timing_of(steps[-1]):
            found[config] = steps[0]["sec_per_kimg"] / steps[-1]["sec_per_kimg"]
    text = ", ".join(f"{config} {_times(ratio)}" for config, ratio in found.items())
    if not found:
        return Verdict(target, None, "")
    return Verdict(target, _met(min(found.values()) >= 8, found.keys() >= MOST_OVERHEAD.keys()), text)


def _overhead(train: Sequence[Row], config: str, most: float) -> Verdict:
    rows = [row for row in train if row["config"] == config and row["provider"] != REFERENCE]
    share = score_overhead(
        fastest(row for row in rows if not row.get("score")), fastest(row for row in rows if row.get("score"))
    )
    target = f"overhead of the score term, {config}: at most {percent(most)}"
    return Verdict(target, None if share is None else share <= most, percent(share) or "")


def _idle(train: Sequence[Row]) -> Verdict:
    target = "GPU idle between kernels: at most 2 %"
    rows = [row for row in train if row["config"] in MOST_OVERHEAD and row.get("idle_share") is not None]
    worst = max(rows, key=lambda row: row["idle_share"], default=None)
    if worst is None:
        return Verdict(target, None, "")
    found = f"{percent(worst['idle_share'])} within {worst['iterations']} iterations of {worst['config']}"
    is_whole = {(row["config"], row["score"]) for row in rows} >= set(product(MOST_OVERHEAD, (True, False)))
    return Verdict(target, _met(worst["idle_share"] <= 0.02, is_whole), found)


def _start_up(rows: Sequence[Row]) -> Verdict:
    target = "start-up to the first iteration, warm cache: at most 60 s"
    warm = [row for row in rows if row.get("provider") == "compiled" and row.get("cache") == "filled"]
    timed = [row for row in warm if timing_of(row)]
    worst = max(timed, key=lambda row: row["median_sec"], default=None)
    if worst is None:
        return Verdict(target, None, "")
    is_whole = {row["config"] for row in timed} >= MOST_OVERHEAD.keys()
    found = f"{number(worst['median_sec'], 's')} ({worst['config']})"
    return Verdict(target, _met(worst["median_sec"] <= 60, is_whole), found)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{number(ratio)}x"
