"""`smartfast presets`: what the presets in configs/presets/ set, side by side, and what each one leaves to its user."""

from collections.abc import Mapping, Sequence

from smartfast.config.families import (
    AuroraGan,
    AuroraLoss,
    BigGanGan,
    R3GanGan,
    R3GanLoss,
    StyleGan2Gan,
    StyleGan2Loss,
)
from smartfast.config.groups import GanSettings, LossSettings
from smartfast.config.parse import parse_config, presets
from smartfast.config.schedule import in_words
from smartfast.config.schema import Config

WIDTH = 120
_SCORERS = "scorers/"
"""Where the presets expect scorers that have to be downloaded."""


def presets_table(*, width: int = WIDTH) -> str:
    """All presets as text, one column each; in several tables below one another where they do not fit `width`."""
    columns = {name: _column(parse_config(["--config", name])) for name in presets()}
    return "\n\n".join(_table(part) for part in _parts(columns, width))


def _column(config: Config) -> dict[str, str]:
    smart, optim = config.smart, config.optim
    is_on = smart.frequency > 0
    return {
        "data": config.data.path.removeprefix("datasets/"),
        "resolution": str(config.data.resolution or "-"),
        "classes": "yes" if config.data.labels else "no",
        "length": f"{config.run.kimg:g} kimg",
        **_networks(config.gan),
        "precision": config.perf.precision,
        "batch": str(optim.batch),
        "lr G, D": f"{in_words(optim.lr_g)}, {in_words(optim.lr_d)}",
        **_objective(config.loss),
        "score term": f"lambda {in_words(smart.weight)} every {smart.frequency}" if is_on else "off",
        "noise to signal": "{:g} to {:g}".format(*smart.noise_to_signal) if is_on and smart.noise_to_signal else "-",
        "scorer": (smart.scorer or "yours").removeprefix(_SCORERS) if is_on else "-",
        "you set": ", ".join(_left_to_the_user(config)) or "nothing",
    }


def _networks(gan: GanSettings) -> dict[str, str]:
    family = {"family": gan.family}
    match gan:
        case StyleGan2Gan():
            return {
                "generator": f"{gan.architecture_g}, {gan.mapping_layers} mapping layers",
                "discriminator": gan.architecture_d,
                "z, w": f"{gan.z_dim}, {gan.w_dim}",
                "feature maps": _by_resolution(gan.channel_base, gan.channel_max),
            }
        case AuroraGan():
            return family | {
                "generator": f"{_list(gan.blocks)} blocks, {_list(gan.experts)} experts",
                "discriminator": _by_resolution(gan.d_channel_base, gan.d_channel_max),
                "z, w": f"{gan.z_dim}, {gan.w_dim}",
                "feature maps": _by_resolution(gan.channel_base, gan.channel_max),
            }
        case BigGanGan():
            return family | {
                "generator": _attention(gan.attention_g),
                "discriminator": _attention(gan.attention_d),
                "z, w": f"{gan.z_dim}",
                "feature maps": f"width G {gan.width_g}, D {gan.width_d}",
            }
        case R3GanGan():
            return family | {
                "generator": f"{_list(gan.blocks)} blocks",
                "z, w": f"{gan.z_dim}",
                "feature maps": _list(gan.widths),
            }
    return family


def _by_resolution(base: int, most: int) -> str:
    return f"{base} / r, at most {most}"


def _attention(resolutions: Sequence[int]) -> str:
    return f"attention at {_list(resolutions)} pixels" if resolutions else "no attention"


def _list(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _objective(loss: LossSettings) -> dict[str, str]:
    match loss:
        case StyleGan2Loss() | AuroraLoss():
            return {"R1 gamma": f"{in_words(loss.r1_gamma)} every {loss.r1_interval}"}
        case R3GanLoss():
            return {"R1 gamma": f"{in_words(loss.gamma)}, of R2 too"}
    return {}


def _left_to_the_user(config: Config) -> list[str]:
    """What the run needs and the preset cannot bring; its data.path is only where the data would lie.

    So is its smart.scorer, for a file to download: a run without it says from where.
    """
    is_own_data = config.data.path != "digits" and not config.data.path.startswith(("hf:", "plane:"))
    scorer = config.smart.scorer
    is_own_scorer = config.smart.frequency > 0 and (scorer is None or scorer.startswith(_SCORERS))
    return ["data.path"] * is_own_data + ["smart.scorer"] * is_own_scorer


def _parts(columns: Mapping[str, dict[str, str]], width: int) -> list[dict[str, dict[str, str]]]:
    """The columns in order, as many per part as fit."""
    parts: list[dict[str, dict[str, str]]] = [{}]
    for name, column in columns.items():
        if parts[-1] and max(map(len, _table({**parts[-1], name: column}).splitlines())) > width:
            parts.append({})
        parts[-1][name] = column
    return parts


def _table(columns: Mapping[str, dict[str, str]]) -> str:
    rows = [["", *columns]]
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows += [[key, *(column.get(key, "-") for column in columns.values())] for key in keys]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
