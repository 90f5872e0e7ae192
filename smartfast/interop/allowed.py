"""Every global that a file may name; any other one makes it refused.

Nothing here is imported on behalf of a file: a pair of names leads to a builder of ours, a dtype, or a class that
stays a name.
"""

from functools import partial

import torch

from smartfast.interop import builders
from smartfast.interop.builders import Global
from smartfast.interop.machine import Allowed
from smartfast.interop.records import Record
from smartfast.interop.torch_files import STORAGES, load_from_bytes

DTYPES: Allowed = {
    ("torch", str(dtype).removeprefix("torch.")): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    + (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
}


def _call(module: str, name: str, builder: builders.Builder) -> Allowed:
    return {(module, name): Global(f"{module}.{name}", call=builder)}


def _dictionary(module: str, name: str) -> Allowed:
    return {(module, name): Global(f"{module}.{name}", call=builders.empty_dict, new=dict)}


def _records(module: str, names: str) -> Allowed:
    dotted = {name: f"{module}.{name}" for name in names.split()}
    return {(module, name): Global(known, new=partial(Record, known)) for name, known in dotted.items()}


COMMON: Allowed = {
    **DTYPES,
    **_dictionary("collections", "OrderedDict"),
    **_call("builtins", "set", builders.set_of),
    **_call("__builtin__", "set", builders.set_of),
    **_call("torch", "Size", builders.same_tuple),
    **_call("torch", "device", builders.device_name),
    **_call("torch._utils", "_rebuild_tensor", builders.tensor),
    **_call("torch._utils", "_rebuild_tensor_v2", builders.tensor),
    **_call("torch._utils", "_rebuild_parameter", builders.parameter),
    **_call("torch._utils", "_rebuild_parameter_with_state", builders.parameter),
    **_call("_codecs", "encode", builders.latin_bytes),
    **_call("numpy", "dtype", builders.numpy_type),
    **_call("numpy.core.multiarray", "scalar", builders.numpy_scalar),
    **_call("numpy._core.multiarray", "scalar", builders.numpy_scalar),
}

PICKLES: Allowed = {
    **COMMON,
    **_dictionary("dnnlib", "EasyDict"),
    **_dictionary("dnnlib.util", "EasyDict"),
    **_call("torch_utils.persistence", "_reconstruct_persistent_obj", builders.persistent_object),
    **_call("torch.storage", "_load_from_bytes", load_from_bytes),
    **_call("numpy.core.multiarray", "_reconstruct", builders.numpy_array),
    **_call("numpy._core.multiarray", "_reconstruct", builders.numpy_array),
    ("numpy", "ndarray"): Global("numpy.ndarray"),
    **_records("torch.nn.modules.container", "ModuleDict ModuleList Sequential"),
    **_records("torch.nn.modules.conv", "Conv2d"),
    **_records("torch.nn.modules.linear", "Linear"),
    **_records("training.networks", "Generator Discriminator"),
    **_records(
        "R3GAN.Networks",
        "Generator GenerativeBasis GeneratorStage UpsampleLayer Discriminator DiscriminativeBasis DiscriminatorStage "
        "DownsampleLayer ResidualBlock Convolution",
    ),
    **_records("R3GAN.FusedOperators", "BiasedActivationCUDA"),
    **_records("R3GAN.Resamplers", "InterpolativeDownsamplerCUDA InterpolativeUpsamplerCUDA"),
}
"""For plain pickles: torch_utils.persistence of NVIDIA's projects, and R3GAN."""

TORCH_FILES: Allowed = {
    **COMMON,
    **STORAGES,
    **_dictionary("easydict", "EasyDict"),
    **_records("argparse", "Namespace"),
    **_records("torch.nn.modules.activation", "ReLU"),
}
"""For files of torch.save: dictionaries of tensors, Hammer's settings, rosinality's arguments, BigGAN's activation."""
