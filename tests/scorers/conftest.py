"""Shared by the scorers' tests: a tiny network, and folders as diffusers writes them."""

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel


@pytest.fixture
def tiny_unet():
    """Builds a UNet2DModel of a few thousand random weights; keyword arguments replace parts of its config."""

    def build(**changes) -> UNet2DModel:
        config = {
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 3,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 8,
        }
        torch.manual_seed(0)
        return UNet2DModel(**config | changes)

    return build


@pytest.fixture
def scorer_folder(tmp_path, tiny_unet):
    """Writes a network and its scheduler config; returns the folder and the network."""

    def write(*, pipeline=False, scheduler=None, unet=None):
        folder = tmp_path / "scorer"
        network = unet or tiny_unet()
        network.save_pretrained(folder / "unet" if pipeline else folder)
        (scheduler or DDPMScheduler()).save_config(folder / "scheduler" if pipeline else folder)
        return folder, network.eval()

    return write
