"""vLLM from .impasto files: a plug-in (entry point ``vllm.general_plugins``).

    vllm serve model.impasto
    vllm serve folder                                       # of impasto.transformers.write_folder
    vllm serve model.impasto --model-loader-extra-config '{"layer": 2}'
    LLM("folder", model_weights="other.impasto")            # in Python: the configuration of a folder, the weights of a file

Weights are decoded as vLLM asks for them. Of a matrix that is divided between ranks, a rank reads the units of its rows and columns only.
Tensors that were encoded with ``--format int4`` (and others, see ``Options``) stay as they are: codes and scales go to the kernels that vLLM has for
compressed-tensors.
"""

import json
import os
import tempfile
from functools import wraps
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils._pytree import tree_map
from vllm.engine import arg_utils
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.platforms import current_platform
from vllm.transformers_utils import config as transformers_config

import impasto
from impasto._dtypes import torch_dtype
from impasto._folders import assets_of, refuse_gguf

METHOD = "impasto"
SUFFIX = ".impasto"
FLOAT32 = ("float", "float32", torch.float32)


def settings_of(folder):
    """What the configuration of a folder says of its .impasto file; nothing if it has none."""
    try:
        quantization = json.loads((Path(folder) / "config.json").read_text()).get("quantization_config") or {}
    except (OSError, ValueError):
        return {}
    return quantization if quantization.get("quant_method") == METHOD else {}


def impasto_file(model):
    """The .impasto file that `model` names: itself, or what the configuration of a folder names. None if there is none."""
    if not isinstance(model, (str, os.PathLike)):
        return None
    path = Path(model)
    if path.suffix == SUFFIX and path.is_file():
        return path.resolve()
    name = settings_of(path).get("file")
    # A link is followed, since bases of deltas are searched beside the file itself.
    return (path / name).resolve() if name else None


def cache():
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "impasto" / "vllm"


class Options(NamedTuple):
    """What ``model_loader_extra_config`` says."""

    layer: int | None = None
    """The layer to use, from 1; all by default."""
    floats: bool = False
    """Whether tensors with a format of engines are decoded to floats, too."""
    activations: int | None = None
    """Bits of what weights with a format are multiplied by; 8 is for int8 and FP8 with scales of rows. By default 16, but on the CPU, where
    vLLM has that for int4 only and not in float32, other files with formats are decoded to floats."""

    @classmethod
    def of(cls, extra):
        extra = dict(extra or {})
        unknown = [key for key in extra if key not in cls._fields]
        if unknown:
            raise ValueError(f"model_loader_extra_config: unknown key {unknown[0]!r}; there are {', '.join(cls._fields)}")
        options = cls(**extra)
        if options.activations not in (None, 8, 16):
            raise ValueError(f"model_loader_extra_config: activations have 8 or 16 bits, not {options.activations!r}")
        return options


def in_form_of(file, options):
    """The file in the form that vLLM reads: itself, or codes and scales of compressed-tensors if it has formats of engines."""
    formats = {file.get_format(name) for name in file.keys()} - {None}
    if options.floats or not formats:
        return file
    if options.activations is None and current_platform.is_cpu() and formats != {"int4"}:
        return file
    return file.export("compressed-tensors-8bit" if options.activations == 8 else "compressed-tensors")


def assets_folder(path, options):
    """A folder with configuration and tokenizer of a file, for vLLM, which reads folders. It stays, for other processes."""
    with impasto.open(path, layer=options.layer) as file:
        refuse_gguf(file)
        form = in_form_of(file, options)
        # A file of which more has arrived may have another form.
        kind = "floats" if form is file else options.activations
        folder = cache() / f"{file.root}-{options.layer or 'all'}-{kind}-{impasto.__version__}"
        if folder.exists():
            return folder
        assets = assets_of(form)
    if "config.json" not in assets:
        raise impasto.InvalidError(f"{path}: no config.json, so nothing says which model it is")
    if form is file:
        config = json.loads(assets["config.json"])
        config.pop("quantization_config", None)  # of the checkpoint; tensors are read as floats
        assets["config.json"] = json.dumps(config, indent=2).encode()
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as temporary:
        made = Path(temporary) / "folder"
        for name, content in assets.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        try:
            os.replace(made, folder)
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    return folder


class Band(torch.Tensor):
    """A tensor of a file that is read when its values are needed. Slices of it stay unread: of a slice, only its band is read."""

    @staticmethod
    def __new__(cls, source, dtype, bounds):
        shape = [stop - start for start, stop in bounds]
        band = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device="cpu")
        band.source, band.bounds = source, bounds
        return band

    @classmethod
    def whole(cls, source, dtype):
        return cls(source, dtype, [(0, size) for size in source.get_shape()])

    def read(self):
        return self.source[tuple(slice(*bounds) for bounds in self.bounds)] if self.bounds else self.source[...]

    def part(self, dimension, start, stop):
        begin, end = self.bounds[dimension]
        size = end - begin
        start, stop = (min(max(at + size if at < 0 else at, 0), size) for at in (start, stop))
        bounds = list(self.bounds)
        bounds[dimension] = (begin + start, begin + max(start, stop))
        return Band(self.source, self.dtype, bounds)

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        if function is torch.ops.aten.detach.default:
            return arguments[0]
        if function is torch.ops.aten.slice.Tensor and not options:
            tensor, dimension, start, stop, step = (*arguments, *(0, None, None, 1)[len(arguments) - 1 :])
            if step == 1:
                return tensor.part(dimension, start or 0, tensor.shape[dimension] if stop is None else stop)
        read = lambda x: x.read() if isinstance(x, Band) else x
        return function(*tree_map(read, arguments), **tree_map(read, options or {}))


class ImpastoLoader(BaseModelLoader):
    """Gives vLLM the tensors of a file, unread."""

    def __init__(self, load_config):
        super().__init__(load_config)
        self.options = Options.of(load_config.model_loader_extra_config)

    def open(self, model_config):
        named = model_config.model_weights or model_config.model
        file = impasto_file(named)
        if file is None:
            raise ValueError(f"{named}: neither an {SUFFIX} file nor a folder that names one")
        opened = impasto.open(file, framework="pt", layer=self.options.layer)
        refuse_gguf(opened)
        return opened

    def download_model(self, model_config):
        self.open(model_config).__exit__(None, None, None)

    def load_weights(self, model, model_config):
        with self.open(model_config) as file:
            # A folder of its own says which form vLLM expects.
            expects_codes = getattr(model_config.hf_config, "quantization_config", None) is not None
            form = in_form_of(file, self.options) if expects_codes else file
            loaded = model.load_weights(bands(form))
            # As vLLM does: what the file lacks would have arbitrary values.
            if loaded is not None and model_config.quantization is None:
                DefaultModelLoader.track_weights_loading(self, model, loaded)


class Whole:
    """A tensor of an export, which is read whole whatever part is wanted."""

    def __init__(self, export, name):
        self.export, self.name = export, name

    def get_shape(self):
        return self.export.get_shape(self.name)

    def __getitem__(self, index):
        return self.export.get_tensor(self.name)[index]


def bands(form):
    """The tensors of a file or of an export, unread, with their names."""
    for name in form.keys():
        source = form.get_slice(name) if isinstance(form, impasto.File) else Whole(form, name)
        yield name, Band.whole(source, torch_dtype(form.get_dtype(name)))


def patch_arguments():
    """A file, or a folder that names one, becomes a folder of assets with the loader of this module."""
    create = EngineArgs.create_model_config

    @wraps(create)
    def create_model_config(self, *arguments, **options):
        file = impasto_file(self.model)
        if file is not None:
            if self.served_model_name is None:
                self.served_model_name = [str(self.model)]
            layer = settings_of(self.model).get("layer")
            if layer is not None and not self.model_weights:
                self.model_loader_extra_config = {"layer": layer} | dict(self.model_loader_extra_config or {})
            self.model_weights = self.model_weights or str(file)
            wanted = Options.of(self.model_loader_extra_config)
            if current_platform.is_cpu() and self.dtype in FLOAT32 and wanted.activations is None:
                wanted = wanted._replace(floats=True)  # no kernel takes codes with such activations
            self.model = str(assets_folder(file, wanted))
        if impasto_file(self.model_weights) is not None and self.load_format == "auto":
            self.load_format = METHOD
        return create(self, *arguments, **options)

    probe = arg_utils.maybe_override_with_speculators

    @wraps(probe)
    def maybe_override_with_speculators(model, tokenizer, *arguments, **options):
        if impasto_file(model) is not None:
            return model, tokenizer, options.get("vllm_speculative_config")
        return probe(model, tokenizer, *arguments, **options)

    EngineArgs.create_model_config = create_model_config
    arg_utils.maybe_override_with_speculators = maybe_override_with_speculators
    transformers_config.maybe_override_with_speculators = maybe_override_with_speculators


def register():
    """Called by vLLM in each of its processes, maybe more than once."""
    if not registered:
        register_model_loader(METHOD)(ImpastoLoader)
        patch_arguments()
        registered.append(True)


registered = []
