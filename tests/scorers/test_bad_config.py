"""Broken scheduler_config.json, config.json and model_index.json: one line that names file and field, at load."""

import json
import os
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartfast.errors import UserError
from smartfast.scorers import TimestepRange, check_predictions, check_scorer, load_scorer

NAN, INFINITY = float("nan"), float("inf")
NO_OBJECT = [[1, 2], "text", 3, None, True]
SCHEDULER = {
    "trained_betas": [0.1, [], [[0.1, 0.2]], [NAN], [INFINITY], ["a"], {}, "0.1", [None], [True], [0.0], [1.5]],
    "num_train_timesteps": [0, -1, 1.5, "1000", None, True, 10**12, NAN, []],
    "rescale_betas_zero_snr": ["false", "true", 1, None, []],
    "beta_start": ["x", None, NAN, -1, 2, [], True],
    "beta_end": [1e308, -INFINITY, "0.02"],
    "beta_schedule": [[], None, {}, "sigmoid", 1],
    "prediction_type": [[], None, {}, "flow_prediction", 1],
    "_class_name": [[], None, 5, {}, "Scheduler", "FlowMatchEulerDiscreteScheduler", "torch"],
    "use_flow_sigmas": [True, "false", 0],
    "timestep_type": ["continuous", None, 3],
}
NETWORK = {
    "sample_size": ["8", 0, -8, [8, 16], [], [8.0, 8.0], True, {}],
    "in_channels": ["3", 0, -1, None, 3.0, 4],
    "out_channels": [0, "3", 4],
    "center_input_sample": [True, "false", 0],
    "time_embedding_type": ["fourier", "learned", "sinus", None, []],
    "flip_sin_to_cos": ["false", 1, None],
    "freq_shift": ["0", None],
    "add_attention": ["false", False],
    "down_block_types": ["DownBlock2D", [], ["DownBlock2D", 3], ["NoBlock", "AttnDownBlock2D"], None],
    "block_out_channels": [8, [8], ["8", "16"], [8, 16, 32], [-8, 16], None],
    "layers_per_block": [0, -1, "1", None, 2],
    "norm_num_groups": [0, 3, "4"],
    "attention_head_dim": [0, "8", 7],
    "act_fn": ["", "none", None, 1],
    "norm_eps": ["1e-5", None],
    "class_embed_type": ["timestep", "identity", 5],
    "num_class_embeds": ["4", 4, -1],
    "_class_name": ["UNet2DConditionModel", "AutoencoderKL", [], None],
}


def with_field(folder, file, field, value):
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {field: value}))


def cases(table):
    return [pytest.param(field, value, id=f"{field}={json.dumps(value)}") for field in table for value in table[field]]


def line_of(folder):
    with pytest.raises(UserError) as error:
        load_scorer(str(folder))
    assert "\n" not in str(error.value) and "expected" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("field", "value"), cases(SCHEDULER))
def test_field_of_the_scheduler(scorer_folder, field, value):
    folder, _ = scorer_folder()
    with_field(folder, "scheduler_config.json", field, value)
    line = line_of(folder)
    assert "scheduler_config.json: " in line and ("betas" if field == "trained_betas" else field) in line


@pytest.mark.parametrize(("field", "value"), cases(NETWORK))
def test_field_of_the_network(scorer_folder, field, value):
    folder, _ = scorer_folder()
    with_field(folder, "config.json", field, value)
    assert str(folder) in line_of(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [("flip_sin_to_cos", "false"), ("freq_shift", "0"), ("block_out_channels", ["8"]), ("in_channels", 3.0)],
)
def test_the_line_names_a_field_of_the_wrong_kind(scorer_folder, field, value):
    folder, _ = scorer_folder()
    with_field(folder, "config.json", field, value)
    assert f"config.json: {field} is {value!r}, expected" in line_of(folder)


@pytest.mark.parametrize("content", NO_OBJECT, ids=json.dumps)
@pytest.mark.parametrize("file", ["scheduler_config.json", "config.json", "model_index.json"])
def test_no_object(scorer_folder, file, content):
    folder, _ = scorer_folder()
    (folder / file).write_text(json.dumps(content))
    assert f"{folder / file}: holds" in line_of(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b'{"a": 1' + b"0" * 5000 + b"}", b"[" * 100_000])
@pytest.mark.parametrize("file", ["scheduler_config.json", "config.json", "model_index.json"])
def test_no_json(scorer_folder, file, content):
    folder, _ = scorer_folder()
    (folder / file).write_bytes(content)
    assert f"{folder / file}: not readable" in line_of(folder)


NUMBERS = st.sampled_from([-1, 0, 1, 2, 7, 64, 1000, 0.5, 1e308, NAN, INFINITY])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ONE_OF_FIELDS = st.integers(min_value=0, max_value=1000)


def mutated(text, draw):
    """A field or two replaced or lost, or some characters of the file."""
    if draw(st.booleans()):
        config = json.loads(text)
        for _ in range(draw(st.integers(1, 2))):
            field = sorted(config)[draw(ONE_OF_FIELDS) % len(config)]
            config[field] = draw(VALUES)
            if draw(st.integers(0, 5)) == 0:
                del config[field]
        return json.dumps(config)
    start = draw(st.integers(0, len(text)))
    return text[:start] + draw(st.text(max_size=3)) + text[start + draw(st.integers(0, 4)) :]


@pytest.fixture(scope="module")
def valid_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    options = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 8}
    UNet2DModel(sample_size=8, **blocks, **options).save_pretrained(folder)
    DDPMScheduler().save_config(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["scheduler_config.json", "config.json"])
@settings(
    max_examples=150 if "SMARTFAST_TEST_SLOW" in os.environ else 40,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_random_mutations(valid_folder, tmp_path_factory, file, data):
    folder = tmp_path_factory.mktemp("mutated")
    shutil.copytree(valid_folder, folder, dirs_exist_ok=True)
    text = mutated((folder / file).read_text(), data.draw)
    (folder / file).write_bytes(text.encode("utf-8", "surrogatepass"))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    try:
        scorer = load_scorer(str(folder), resolution=8)
        check_scorer(scorer, resolution=8, channels=3, num_classes=0, name="mine")
        ends = TimestepRange(0, scorer.num_timesteps - 1, 0.0, 0.0, scorer.num_timesteps, "test")
        check_predictions(scorer, ends, images, None, name="mine")
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        shutil.rmtree(folder)
