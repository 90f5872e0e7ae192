"""report.html of a run folder: the page that `smartfast watch` shows, frozen, with its data and pictures inside."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from smartfast.core.checkpoint import find_checkpoint
from smartfast.core.files import write_atomically
from smartfast.core.grids import save_grid
from smartfast.errors import UserError
from smartfast.families.sampling import Sampler, draw_path, usual_labels
from smartfast.families.saved import open_sampler
from smartfast.report.pictures import embedded
from smartfast.report.run_data import LOG, run_data
from smartfast.report.webpage import RUNS_SCRIPTS, web_page

_MOST_SHEETS = 12
_STRIP_COLUMNS, _STRIP_ROWS = 10, 5


def write_report(run_dir: str | Path, *, strip: bool = True, before_writing: Callable[[], None] = lambda: None) -> Path:
    """Write `report.html` into a run folder from what it holds.

    Args:
        run_dir: Run folder.
        strip: Draw an interpolation strip of the newest checkpoint first, which opens its network on the CPU.
        before_writing: Raises where the folder has gone meanwhile, which writing would make anew.

    Returns:
        The report's path.

    Raises:
        UserError: There is no metrics.jsonl.
    """
    run_dir = Path(run_dir)
    if not (run_dir / LOG).is_file():
        raise UserError(f"{run_dir}: expected a run folder, found no {LOG} in it")
    fault = _write_strip(run_dir) if strip else None
    data = run_data(run_dir, embedded, most_sheets=_MOST_SHEETS) | {"strip_fault": fault}
    target = run_dir / "report.html"
    page = web_page(f"Run {data['name']}", RUNS_SCRIPTS, {"live": False, "runs": [data]})
    before_writing()
    write_atomically(target, page)
    return target


def _write_strip(run_dir: Path) -> str | None:
    """Write `interpolation<kimg>.png` of the newest checkpoint, or say why there is none."""
    try:
        checkpoint = find_checkpoint(run_dir)
        strip = interpolation_strip(open_sampler(checkpoint))
    except UserError as error:
        return f"Not available: {error}"
    save_grid(strip, run_dir / f"interpolation{checkpoint.name}.png", _STRIP_COLUMNS)
    return None


def interpolation_strip(sampler: Sampler) -> Tensor:
    """Images uint8 [rows * columns, C, H, W], each row from one seed's to another's; with labels, within one class."""
    paths = []
    for row in range(_STRIP_ROWS):
        places = max(sampler.num_classes // _STRIP_ROWS, 1)
        labels = usual_labels(sampler, torch.tensor([row * places] * 2))
        seeds = torch.tensor([2 * row, 2 * row + 1])
        paths.append(draw_path(sampler, seeds, labels, steps=_STRIP_COLUMNS - 1, loop=False, batch=_STRIP_COLUMNS))
    return torch.cat(paths)
