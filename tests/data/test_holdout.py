"""A part of a data set kept out of the training."""

import pytest
import torch

from smartfast.config.schema import DataConfig
from smartfast.data import open_dataset
from smartfast.data.holdout import split
from smartfast.errors import UserError


def test_split_is_a_partition() -> None:
    dataset = open_dataset(DataConfig(resolution=8, labels=True))
    training, held_out = split(dataset, 180)
    both = torch.cat([training.indices, held_out.indices])
    assert torch.equal(both.sort().values, torch.arange(1797))
    assert len(held_out) == 180 and held_out.indices.diff().unique().tolist() == [9, 10]
    assert torch.equal(held_out.all_images(), dataset.all_images()[held_out.indices])
    assert torch.equal(held_out.labels, dataset.labels[held_out.indices])
    assert split(dataset, 0) == (dataset, None)


@pytest.mark.parametrize("holdout", [-1, 1797])
def test_a_split_that_leaves_nothing_is_refused(holdout: int) -> None:
    with pytest.raises(UserError, match=f"data.holdout is {holdout}, expected 0 to 1796"):
        split(open_dataset(DataConfig(resolution=8)), holdout)
