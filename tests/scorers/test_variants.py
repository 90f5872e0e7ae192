"""Every kind of UNet2DModel in half precision, against diffusers' own network in float64."""

import copy

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from smartfast.scorers import UNetScorer
from smartfast.scorers.schedule import schedule_from_config

FOURIER = {"time_embedding_type": "fourier"}
LEARNED = {"time_embedding_type": "learned", "num_train_timesteps": 1000}
CHANGES = [
    {},
    FOURIER,
    LEARNED,
    {"num_class_embeds": 4},
    FOURIER | {"num_class_embeds": 4},
    LEARNED | {"num_class_embeds": 4},
    {"time_embedding_dim": 48},
    {"freq_shift": 1, "flip_sin_to_cos": False},
    {"resnet_time_scale_shift": "scale_shift"},
    {"downsample_type": "resnet", "upsample_type": "resnet"},
    {"downsample_padding": 0},
    {"mid_block_scale_factor": 1.414},
    {"add_attention": False},
    {"attn_norm_num_groups": 8},
    {"attention_head_dim": None},
    {"act_fn": "gelu"},
    {"act_fn": "relu"},
    {"act_fn": "mish"},
    {"norm_eps": 1e-6},
    {"layers_per_block": 2},
    {"dropout": 0.1},
    {"out_channels": 6},
    {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False},
    {"down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2},
    {"down_block_types": ("ResnetDownsampleBlock2D",) * 2, "up_block_types": ("ResnetUpsampleBlock2D",) * 2},
    {"down_block_types": ("SkipDownBlock2D",) * 2, "up_block_types": ("SkipUpBlock2D",) * 2},
    {"down_block_types": ("AttnSkipDownBlock2D",) * 2, "up_block_types": ("AttnSkipUpBlock2D",) * 2},
    {"down_block_types": ("KDownBlock2D",) * 2, "up_block_types": ("KUpBlock2D",) * 2},
    FOURIER | {"down_block_types": ("SkipDownBlock2D",) * 2, "up_block_types": ("SkipUpBlock2D",) * 2},
]
HALF = [torch.bfloat16, torch.float16]
T = torch.tensor([1, 25, 30, 180, 300, 511, 700, 999])


def name_of(changes):
    return "-".join(str(value[0] if isinstance(value, tuple) else value) for value in changes.values()) or "default"


@pytest.fixture(params=CHANGES, ids=name_of)
def unet(request, tiny_unet):
    return tiny_unet(block_out_channels=(32, 64), norm_num_groups=8, **request.param).eval()


def scorer_of(unet, dtype):
    return UNetScorer(copy.deepcopy(unet), schedule_from_config({}, "test"), parameterization="eps", dtype=dtype)


def inputs(unet):
    x_t = torch.randn(len(T), 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x_t, T, torch.arange(len(T)) % 4 if unet.config.num_class_embeds else None


class _Float32Embeddings(UNet2DModel):
    """forward casts its embeddings to this."""

    dtype = torch.float32


def with_float32_embeddings(unet, dtype):
    """PyTorch's half precision of all but the embeddings, whose sum alone is rounded, where the blocks take it."""
    unet = copy.deepcopy(unet)
    unet.__class__ = _Float32Embeddings
    embeddings = ("time_proj", "time_embedding", "class_embedding")
    for name, part in unet.named_children():
        part.to(torch.float32 if name in embeddings else dtype)

    def cast(value):
        return value.to(dtype) if torch.is_tensor(value) else value

    def round_inputs(module, args, kwargs):
        return tuple(cast(arg) for arg in args), {name: cast(value) for name, value in kwargs.items()}

    blocks = [*unet.down_blocks, *([unet.mid_block] if unet.mid_block else []), *unet.up_blocks]
    for block in blocks:
        block.register_forward_pre_hook(round_inputs, with_kwargs=True)
    return unet


def relative_error(found, expected):
    """Mean of the images' own: a network of Fourier features divides its output by t."""
    error, size = ((part.flatten(1).norm(dim=1)) for part in (found.double() - expected, expected))
    return (error / size).mean().item()


@pytest.mark.sample(3)
@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_error_is_that_of_half_precision_outside_the_embeddings(unet, dtype):
    x_t, t, labels = inputs(unet)
    truth = nn.Module.to(copy.deepcopy(unet), torch.float64)(x_t.double(), t, labels).sample[:, :3]
    allowed = relative_error(with_float32_embeddings(unet, dtype)(x_t.to(dtype), t, labels).sample[:, :3], truth)
    assert relative_error(scorer_of(unet, dtype).network(x_t, t, labels), truth) < 1.5 * allowed


@torch.no_grad()
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_embeddings_are_computed_in_float32(unet, dtype):
    scorer = scorer_of(unet, dtype)
    embeddings = (scorer.unet.time_proj, scorer.unet.time_embedding, scorer.unet.class_embedding)
    weights = [weight for part in embeddings if part is not None for weight in part.parameters()]
    assert weights and all(weight.dtype == torch.float32 for weight in weights)
    assert scorer.unet.conv_out.weight.dtype == dtype
    features = unet.time_proj(T)
    assert torch.equal(scorer.unet.time_proj(T), features)
    rounded = features.to(dtype)
    expected = unet.time_embedding(rounded.float()).to(dtype)
    assert torch.equal(scorer.unet.time_embedding(rounded), expected)


@pytest.mark.sample(3)
@torch.no_grad()
@pytest.mark.parametrize("unet", [FOURIER, LEARNED | {"num_class_embeds": 4}], ids=name_of, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_network_is_one_graph(unet, dtype):
    scorer = scorer_of(unet, dtype)
    compiled = torch.compile(scorer.network, fullgraph=True, backend="aot_eager")(*inputs(unet))
    assert relative_error(compiled, scorer.network(*inputs(unet)).double()) < 1e-2


@pytest.mark.sample(3)
@torch.no_grad()
def test_float32_is_diffusers_own(unet):
    found, expected = scorer_of(unet, torch.float32).network(*inputs(unet)), unet(*inputs(unet)).sample[:, :3]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
