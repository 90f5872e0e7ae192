"""A scorer's weights against its config: told from the header of the file, before any memory is taken."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from smartfast.errors import UserError
from smartfast.scorers import load_scorer

WEIGHTS = "diffusion_pytorch_model.safetensors"
ENORMOUS = [
    ({"block_out_channels": [10**6, 16]}, "conv_in.weight is (8, 3, 3, 3), expected (1000000, 3, 3, 3)"),
    ({"block_out_channels": [8, 10**6]}, "down_blocks.1.attentions.0.group_norm.weight is (16,), expected (1000000,)"),
    ({"in_channels": 10**9}, "conv_in.weight is (8, 3, 3, 3), expected (8, 1000000000, 3, 3)"),
    ({"out_channels": 10**9}, "conv_out.weight is (3, 8, 3, 3), expected (1000000000, 8, 3, 3)"),
    ({"num_class_embeds": 10**12}, "class_embedding.weight is missing, expected (1000000000000, 32)"),
    ({"time_embedding_type": "learned", "num_train_timesteps": 10**12}, "is missing, expected (1000000000000, 8)"),
    ({"layers_per_block": 3000}, "has more tensors than the weights"),
    ({"block_out_channels": [10**15, 16], "norm_num_groups": 1}, "too large"),
]


@pytest.mark.parametrize(("changes", "line"), ENORMOUS, ids=lambda value: json.dumps(value)[:60])
def test_config_of_an_enormous_network(scorer_folder, changes, line):
    folder, _ = scorer_folder()
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))}: [^\n]*{re.escape(line)}[^\n]*$"):
        load_scorer(str(folder))


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64]
)
def test_weights_that_are_no_floating_point_numbers(scorer_folder, dtype):
    folder, _ = scorer_folder()
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.weight"] = tensors["conv_in.weight"].to(dtype)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError, match=rf"{WEIGHTS}: conv_in.weight is \w+, expected floating-point numbers[^\n]*$"):
        load_scorer(str(folder))


def test_weights_in_several_files(scorer_folder, tiny_unet):
    folder, network = scorer_folder()
    (folder / WEIGHTS).unlink()
    network.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    load_scorer(str(folder))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"block_out_channels": [10**6, 16]}))
    with pytest.raises(UserError, match="conv_in.weight is"):
        load_scorer(str(folder))
