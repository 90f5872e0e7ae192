"""A trial training is the training that the same command line makes, as far as its phases are concerned."""

from pathlib import Path

import pytest
import torch

from smartfast.config.parse import parse_config
from smartfast.run.training import Training
from smartfast.run.trial_training import trial_training


def trial(*options: str, **place: int) -> Training:
    tiny = ["--gan.channel_base=64", "--gan.channel_max=8", "--smart.frequency=0", "--perf.cpu_threads=1"]
    return trial_training(parse_config(["--config", "digits", *tiny, *options]), torch.device("cpu"), print, **place)


def test_images_kept_out_are_kept_out_here_too() -> None:
    """The number of those that are left is a size inside phases that draw labels: code for another is of no use."""
    training = trial("--data.holdout=100")
    assert training.data_labels is not None and len(training.data_labels) == len(training.dataset) == 1697
    assert training.family.held_out is not None and len(training.family.held_out) == 100


def test_it_has_the_part_of_a_batch_that_a_process_has() -> None:
    whole = trial()
    parts = [trial(process_index=index, num_processes=2) for index in range(2)]
    assert torch.equal(torch.cat([part.offsets for part in parts]).sort().values, whole.offsets.sort().values)
    assert [len(part.batch.images) for part in parts] == [16, 16]


def test_where_data_are_not_there_stand_ins_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = trial(f"--data.path={tmp_path / 'later.zip'}", "--data.classes=3", "--smart.frequency=4")
    assert training.data_labels is not None and training.data_labels.unique().numel() == 3
    assert "the score term is left out" in capsys.readouterr().out
    assert "g_score" not in training.phases
