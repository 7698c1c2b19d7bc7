"""Models of transformers from .impasto files.

``import impasto.transformers`` registers a quantizer, after which ``from_pretrained`` opens the folders that
:func:`write_folder` makes:

>>> from transformers import AutoModelForCausalLM
>>> import impasto.transformers
>>> impasto.transformers.write_folder("model.impasto", "folder")
>>> model = AutoModelForCausalLM.from_pretrained("folder", dtype="bfloat16")

``config.json`` of such a folder names the file, and ``model.safetensors`` is empty:

    "quantization_config": {"quant_method": "impasto", "file": "model.impasto", "layer": 2, "packed": false}

``layer`` and ``packed`` may be left out. With ``packed``, the weights of ``torch.nn.Linear`` stay in Impasto's packed form, on the CPU;
their inputs are binary32 or cast to that. They are not rounded to the dtype of the checkpoint, as tensors are that are read.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
import transformers.modeling_utils
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import impasto
from impasto._folders import assets_of, refuse_gguf

METHOD = "impasto"
POINTER = "model.safetensors"


@register_quantization_config(METHOD)
class ImpastoConfig(QuantizationConfigMixin):
    """What ``quantization_config`` of ``config.json`` says.

    Args:
        file: the .impasto file, in the folder of ``config.json``.
        layer: the layer to use, from 1; all by default.
        packed: whether weights of linear modules stay packed.
    """

    def __init__(self, file, layer=None, packed=False, **unknown):
        unknown.pop("quant_method", None)
        if unknown:
            raise ValueError(f"quantization_config: unknown key {next(iter(unknown))!r}; there are file, layer and packed")
        self.quant_method = METHOD
        self.file = file
        self.layer = layer
        self.packed = packed


class PackedProduct(torch.autograd.Function):
    """x W^T with packed W, differentiable in x, so that adapters (LoRA) can be trained over it."""

    @staticmethod
    def forward(context, x, matrix):
        context.matrix = matrix
        rows = x.detach().to(torch.float32).reshape(-1, x.shape[-1]).contiguous()
        product = torch.from_numpy(matrix.product(rows.numpy()))
        return product.reshape(*x.shape[:-1], matrix.shape[0]).to(x.dtype)

    @staticmethod
    def backward(context, gradient):
        rows = gradient.to(torch.float32).reshape(-1, gradient.shape[-1])
        weights = torch.from_numpy(context.matrix.decode())
        return (rows @ weights).reshape(*gradient.shape[:-1], weights.shape[1]).to(gradient.dtype), None


class DecodedWeight(torch.Tensor):
    """Weights that were decoded from packed ones. What would be written to them would be lost, so that is an error."""

    @property
    def data(self):
        return self.as_subclass(torch.Tensor)

    @data.setter
    def data(self, _):
        raise TypeError("packed weights cannot be changed: to merge an adapter, load the model without packed")


class PackedLinear(torch.nn.Linear):
    """A linear module whose weights are packed. It has no parameter ``weight``, so nothing trains or saves that.

    Libraries that know ``torch.nn.Linear``, such as peft, may put an adapter over it. ``weight`` is decoded at each access.
    """

    # The loader would give weights of a linear module random values.
    _is_hf_initialized = True

    def __init__(self, matrix, bias):
        torch.nn.Module.__init__(self)
        self.matrix = matrix
        self.out_features, self.in_features = matrix.shape
        self.bias = bias

    @property
    def weight(self):
        return torch.from_numpy(self.matrix.decode()).as_subclass(DecodedWeight)

    def forward(self, x):
        y = PackedProduct.apply(x, self.matrix)
        return y if self.bias is None else y + self.bias


class Without:
    """An open file without some of its tensors, as ``safe_open`` gives it to the loader."""

    def __init__(self, file, hidden):
        self.file, self.hidden = file, hidden

    def keys(self):
        return [name for name in self.file.keys() if name not in self.hidden]

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return self.file.__exit__(*exception)


@register_quantizer(METHOD)
class ImpastoQuantizer(HfQuantizer):
    """Gives the loader the tensors of an .impasto file in the place of those of the empty ``model.safetensors``."""

    requires_calibration = True

    def validate_environment(self, *args, device_map=None, **kwargs):
        devices = device_map.values() if isinstance(device_map, dict) else [device_map]
        if self.quantization_config.packed and any(str(device) not in ("None", "cpu") for device in devices):
            raise ValueError("packed weights are on the CPU only: leave out device_map, or packed")

    def _process_model_before_weight_loading(self, model, checkpoint_files=None, **kwargs):
        config = self.quantization_config
        self.pointer = checkpoint_files[0]
        # A link is followed, since bases of deltas are searched beside the file itself.
        file = impasto.open((Path(self.pointer).parent / config.file).resolve(), framework="pt", layer=config.layer)
        refuse_gguf(file)
        hidden = pack_linears(model, file) if config.packed else ()
        openings[self.pointer] = Without(file, frozenset(hidden))
        # The loader keeps the dtype of quantized tensors whose names it changes; these get the dtype that was asked for.
        self.pre_quantized = False

    def _process_model_after_weight_loading(self, model, **kwargs):
        self.pre_quantized = True
        if openings.pop(self.pointer, None) is not None:
            raise ValueError("the weights of the .impasto file were not read: leave out disable_mmap, and use no file system of hf-mount")
        return model

    def is_serializable(self, *args, **kwargs):
        raise ValueError(
            "a model of an .impasto file cannot be saved by save_pretrained: its weights are in the file, which can be copied, and "
            "`impasto decode FILE --to safetensors -o FOLDER` writes a folder of floats")

    @property
    def is_trainable(self):
        return True


def pack_linears(model, file):
    """Replaces linear modules whose weights are in the file by packed ones. Returns the names of these tensors."""
    names = set(file.keys())
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    found = [(name, module) for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    packed = []
    for name, module in found:
        weight = f"{name}.weight"
        if weight in names and weight not in tied:
            packed.append((name, module))
    if not packed:
        raise ValueError("packed: the file has no weights under the names of linear modules of this model: leave out packed")
    matrices = file.packed([f"{name}.weight" for name, _ in packed])
    for (name, module), matrix in zip(packed, matrices, strict=True):
        model.set_submodule(name, PackedLinear(matrix, module.bias))
    return [f"{name}.weight" for name, _ in packed]


# Files that the loader is about to open, by the path of their model.safetensors.
openings = {}
safe_open = transformers.modeling_utils.safe_open


def open_weights(path, *args, **options):
    """``safe_open`` of the loader; the pointer of a folder opens as its .impasto file."""
    return openings.pop(str(path), None) or safe_open(path, *args, **options)


transformers.modeling_utils.safe_open = open_weights


def write_folder(file, folder, layer=None, packed=False, copy=False):
    """Makes a folder that ``from_pretrained`` opens: config, tokenizer, an empty ``model.safetensors`` and the file.

    Args:
        file: an .impasto file with ``config.json``.
        folder: the folder to make; it may exist if it is empty.
        layer, packed: as in :class:`ImpastoConfig`.
        copy: copy the file, instead of a symbolic link to it.
    """
    file, folder = Path(file).resolve(), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: there is something already")
    with impasto.open(file) as opened:
        refuse_gguf(opened)
        assets = assets_of(opened)
    if "config.json" not in assets:
        raise impasto.InvalidError(f"{file}: no config.json, so nothing says which model it is")
    settings = {"quant_method": METHOD, "file": file.name}
    settings |= {"layer": layer} if layer is not None else {}
    settings |= {"packed": True} if packed else {}
    config = json.loads(assets["config.json"]) | {"quantization_config": settings}
    assets["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / "folder"
        for name, content in assets.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        save_file({}, made / POINTER, metadata={"format": "pt"})
        if copy:
            shutil.copy(file, made / file.name)
        else:
            os.symlink(file, made / file.name)
        os.replace(made, folder)


def from_pretrained(file, layer=None, packed=False, auto_class=AutoModelForCausalLM, **options):
    """Loads a model from a lone .impasto file.

    Args:
        file: an .impasto file with ``config.json``.
        layer, packed: as in :class:`ImpastoConfig`.
        auto_class: the class of transformers that loads it.
        options: for ``auto_class.from_pretrained``, such as ``dtype``.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_folder(file, folder, layer, packed)
        return auto_class.from_pretrained(folder, **options)
