"""bench.proofs.other_features: networks that favour nothing, samples drawn once, and the tables of known values."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.proofs.other_features import MEASURES, arm_rows, drawn_once, main, pair_rows, random_network
from smartfast.cli import main as smartfast
from smartfast.config.parse import parse_config
from smartfast.data import open_dataset
from smartfast.errors import UserError
from smartfast.metrics.digits.features import classifier_input, load_classifier
from smartfast.study.plan import find_study, load_plan


def test_a_random_network_has_features_of_variance_1_and_its_number_decides(tmp_path: Path) -> None:
    dataset = open_dataset(parse_config(["--config=digits"]).data)
    one, again, other = (random_network(n, dataset, tmp_path / f"{i}.safetensors") for i, n in enumerate((0, 0, 1)))
    features, _ = load_classifier(load_file(one))(classifier_input(dataset.all_images(), dataset.resolution))
    torch.testing.assert_close(features.var(dim=0).mean(), torch.tensor(1.0))
    assert one.read_bytes() == again.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("has_labels", [True, False])
def test_samples_are_drawn_once(has_labels: bool) -> None:
    asked = []

    def source(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        asked.extend(numbers.tolist())
        return numbers[:, None, None, None], 2 * numbers if has_labels else None

    kept = drawn_once(source, 150)
    for numbers in (torch.tensor([149, 3, 3]), torch.arange(150)):
        images, labels = kept(numbers)
        assert torch.equal(images[:, 0, 0, 0], numbers)
        assert (labels is None) != has_labels and (labels is None or torch.equal(labels, 2 * numbers))
    assert asked == list(range(150))


def test_the_tables_of_known_values() -> None:
    plan = load_plan(find_study("digits_augment"))
    (arm, other), *_ = plan.compared
    values = {arm.name: {} for arm in plan.arms}
    for seed in range(4):
        values[other][seed] = dict.fromkeys(MEASURES, float(seed))
        values[arm][seed] = dict.fromkeys(MEASURES, seed + 0.5)
    rows = {row[0]: row[1:] for row in arm_rows(values)}
    assert rows[other][:2] == ["4", "1.5 ± 1.3"] and ["0"] in rows.values()
    assert [row[1:] for row in pair_rows(plan, values)] == [[name, "4", "+0.5", "0.125"] for name in MEASURES]


def test_a_study_without_cells_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete cell"):
        main(["digits_augment", f"--out={tmp_path}"])


@pytest.mark.slow
def test_the_cells_of_a_study_are_measured(tmp_path: Path) -> None:
    assert smartfast(["study", "run", "digits_augment", "--quick", f"--out={tmp_path / 'cells'}"]) == 0
    options = ["--quick", f"--out={tmp_path / 'cells'}", f"--output={tmp_path}", "--networks=1", "--samples=80"]
    assert main(["digits_augment", *options]) == 0
    text = (tmp_path / "other_features.md").read_text()
    assert "| plain | 2 | " in text and "over 8 cells" in text
