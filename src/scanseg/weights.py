"""Weights on disk: safetensors in and out, model folders, the hub.

A model folder holds

* ``config.json``: the preset, the architecture's numbers, where the weights come from, and under
  ``"weights"`` the size and SHA-256 of
* ``model.safetensors``: the state of the whole model under the prefixes of ``PARTS``, and
* ``NOTICE.md``: the terms of these weights, which are not those of the code.

Pickles are never opened here (``scanseg.pickles`` does that, under guard).
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from scanseg.contracts import InputError
from scanseg.storage import atomic_write, file_hash, parse_json, read_json, write_json

_Network = TypeVar("_Network", bound=nn.Module)

CONFIG, WEIGHTS, NOTICE = "config.json", "model.safetensors", "NOTICE.md"

PARTS: Mapping[str, str] = {
    "proposals.": "mask proposals: backbone, pixel decoder, masked decoder, embedding head",
    "clip.": "the original, frozen CLIP that sees whole photos; image tower only",
    "region_clip.": "the CLIP that classifies regions and encodes words; both towers",
    "integration.": "the semantic integration module",
    "void": "embedding of 'no object', (D,)",
    "learnable_shift": "token of contextual shift, (V,); only for shift source 'learnable'",
}
"""Top-level prefixes of a whole model's state and what is under them."""

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _TYPES.items()}
_CONFIG_LIMIT = 16 * 2**20  # bytes; a config.json is a few kilobytes
_NAMED = 3  # weights that an error names before it says "and so on"
_SPARE_SIZE, _SPARE_NAMES = 4, 1000  # of a model that is built: towers are made whole, then cut
_HUB_TIMEOUT = 5.0  # seconds until the hub counts as out of reach
_HUB_FILES = ["*.json", "*.safetensors", "*.md", "*.txt"]


def fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any weight of the model, its name or its type."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()


def constants_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that change with what the model's parts fix besides weights.

    That is every public number, text, tuple or dataclass of a part of this package: the share of
    an affinity network, the cuts of a region merging, a recipe's sizes and words.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, module in model.named_modules():
        if not type(module).__module__.startswith("scanseg."):
            continue
        for key, value in sorted(vars(module).items()):
            if not key.startswith("_") and key != "training" and _is_constant(value):
                digest.update(f"{name}.{key}={value!r};".encode())
    return digest.hexdigest()


def _is_constant(value: object) -> bool:
    if isinstance(value, (dict, tuple)):
        parts = value.values() if isinstance(value, dict) else value
        return all(_is_constant(part) for part in parts)
    return is_dataclass(value) or isinstance(value, (bool, int, float, str, type(None)))


def fingerprints(model: nn.Module) -> dict[str, str]:
    """Both, by name: what tells one model from another where results may not be mixed."""
    return {"weights": fingerprint(model), "constants": constants_fingerprint(model)}


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file, atomically, one tensor after the other.

    Memory holds no more than one tensor besides ``tensors`` itself, which may be views of a
    memory-mapped file and may repeat. The same tensors give the same bytes.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        InputError: ``tensors`` is empty, or the format has no such type.
    """
    if not tensors:
        raise InputError(f"no weights to write to {path}")
    # wide types first, so that every tensor starts at a multiple of its item size
    names = sorted(tensors, key=lambda n: (-tensors[n].element_size(), n))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _TYPES:
            raise InputError(f"{name} is {tensor.dtype}, which safetensors files do not hold here")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for start in (len(text).to_bytes(8, "little"), text):
            digest.update(start)
            file.write(start)
        for name in names:
            flat = tensors[name].detach().to("cpu").contiguous().reshape(-1)
            data = flat.view(torch.uint8).numpy().data
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each read from disk when it is asked for.

    Read, not mapped: mapped pages would count as memory of the process beside the model that they
    are copied to. ``mapped`` is for what may not be needed at all.

    Args:
        path: the file. Its header is checked against the file: sizes, types, no gaps or overlaps.

    Raises:
        InputError: there is no such file, or it is not a whole safetensors file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"no weights file {self.path}")
        try:
            with safe_open(self.path, framework="pt"):
                pass  # checks every bound of the header
            self._file = self.path.open("rb")
            length = int.from_bytes(self._file.read(8), "little")
            header = parse_json(self._file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{self.path} is not a whole safetensors file ({_one_line(error)}); "
                "copy or convert it again"
            ) from error
        header.pop("__metadata__", None)
        self._header: dict[str, Any] = header
        self._start = 8 + length
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Tensor:
        entry = self._header[name]
        if entry["dtype"] not in _DTYPES:
            raise InputError(f"{self.path}: {name} is of type {entry['dtype']}, not read here")
        tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
        data = tensor.reshape(-1).view(torch.uint8).numpy().data
        with self._lock:
            self._file.seek(self._start + entry["data_offsets"][0])
            if self._file.readinto(data) != len(data):
                raise InputError(f"{self.path} became shorter while it was read; copy it again")
        return tensor

    def mapped(self, name: str) -> Tensor:
        """A tensor whose pages come from the file when they are read; writing copies them."""
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        if begin == end:
            return self[name]  # nothing to map
        pages = np.memmap(self.path, np.uint8, "c", self._start + begin, (end - begin,))
        return torch.from_numpy(pages).view(_DTYPES[entry["dtype"]]).view(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._header)

    def __len__(self) -> int:
        return len(self._header)

    def __contains__(self, name: object) -> bool:
        return name in self._header

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        return tuple(self._header[name]["shape"])

    def part(self, prefix: str) -> Part:
        """The tensors whose names start with ``prefix``, shown without it."""
        return Part(self, prefix)


class Part(Mapping[str, Tensor]):
    """A view of the tensors of a file whose names start with ``prefix``, without it."""

    def __init__(self, file: TensorFile, prefix: str) -> None:
        self.file = file
        self.prefix = prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.file[self.prefix + name]

    def __iter__(self) -> Iterator[str]:
        start = len(self.prefix)
        return (name[start:] for name in self.file if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.prefix + name in self.file

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        return self.file.shape(self.prefix + name)


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    may_miss: Sequence[str] = (),
    mapped: Sequence[str] = (),
) -> None:
    """Copy weights into a module, strictly: every name on both sides and every shape must agree.

    One tensor at a time is read and copied, so memory holds the module and one tensor. Values are
    cast to the module's floating type and device.

    Args:
        module: takes the weights.
        tensors: by the names of ``module.state_dict()``.
        source: where they come from, for errors.
        may_miss: beginnings of names that ``tensors`` may leave out; they keep their values. For
            starting points of training.
        mapped: beginnings of names that stay in the file until they are read
            (``TensorFile.mapped``), where ``tensors`` is such a file and the types agree.

    Raises:
        InputError: names are missing or left over, or a shape differs; the module is unchanged.
    """
    own = module.state_dict(keep_vars=True)
    missing = [n for n in own if n not in tensors and not n.startswith(tuple(may_miss))]
    unexpected = [n for n in tensors if n not in own]
    shape = getattr(tensors, "shape", lambda n: tuple(tensors[n].shape))
    wrong = [
        f"{n} {shape(n)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in tensors and shape(n) != tuple(own[n].shape)
    ]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (wrong, "of another shape"),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"the weights of {source} do not fit this model: {'; '.join(problems)}; "
            "choose the preset they were made for, or convert them again"
        )
    with torch.no_grad():
        for name, target in own.items():
            if name not in tensors:
                continue
            if isinstance(tensors, TensorFile) and name.startswith(tuple(mapped)):
                value = tensors.mapped(name)
                if (value.dtype, value.device) == (target.dtype, target.device):
                    target.data = value
                    continue
            target.copy_(tensors[name])


def save_folder(
    folder: str | Path, state: Mapping[str, Tensor], config: Mapping[str, Any], notice: str
) -> Path:
    """Write a model folder.

    ``config.json`` goes away first and comes back last, so that it never stands beside weights it
    does not describe: a folder whose writing was cut short is recognised and refused.

    Args:
        folder: is made; files of the same names are replaced.
        state: weights under the prefixes of ``PARTS``.
        config: plain values for JSON. ``"weights"`` is added here.
        notice: terms of the weights, Markdown.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    digest = save_tensors(folder / WEIGHTS, state)
    with atomic_write(folder / NOTICE) as file:
        file.write(notice.rstrip().encode() + b"\n")
    weights = {"file": WEIGHTS, "bytes": (folder / WEIGHTS).stat().st_size, "sha256": digest}
    write_json(folder / CONFIG, {**config, "weights": weights})
    return folder


def load_folder(folder: str | Path, *, verify: bool = False) -> tuple[dict[str, Any], TensorFile]:
    """Open a model folder: its configuration and its weights, which are read when they are used.

    Args:
        folder: as ``save_folder`` wrote it.
        verify: read the weights once more and compare their SHA-256 (seconds per gigabyte). Without
            it, size and header are compared.

    Raises:
        InputError: a file is missing, damaged or does not belong to the others.
    """
    folder = Path(folder)
    config = read_config(folder)
    tensors = TensorFile(folder / WEIGHTS)
    recorded = config.get("weights")
    if not isinstance(recorded, dict) or not {"bytes", "sha256"} <= recorded.keys():
        raise InputError(
            f"{folder / CONFIG} was not written by scanseg: it does not describe its weights"
        )
    size = (folder / WEIGHTS).stat().st_size
    if size != recorded["bytes"] or (verify and file_hash(folder / WEIGHTS) != recorded["sha256"]):
        raise InputError(
            f"{folder / WEIGHTS} is not the file that {CONFIG} describes; "
            "copy or convert the folder again"
        )
    return config, tensors


def read_config(folder: str | Path) -> dict[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        InputError: there is none, or it is not a JSON object of a sensible size.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(
            f"{folder} has no {CONFIG}: it is no model folder, or writing it was cut short"
        )
    config = read_json(path, _CONFIG_LIMIT)
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a JSON object")
    return config


def resolve_folder(
    name_or_path: str | Path, *, revision: str | None = None, endpoint: str | None = None
) -> Path:
    """The local folder of a model: a folder as it is, or a hub model, downloaded if need be.

    Args:
        name_or_path: a folder, or a hub id ``owner/name``. What exists on disk wins.
        revision: branch, tag or commit of a hub model.
        endpoint: address of a hub mirror.

    Raises:
        InputError: neither exists, or the hub is out of reach and the model not in the cache.
            Without a network this takes seconds.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    name = str(name_or_path)
    if not _is_hub_id(name):
        raise InputError(
            f"no model folder {name}; give a folder that `scanseg convert CHECKPOINT --output "
            "FOLDER` or save_pretrained wrote, or a hub id (owner/name)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=_HUB_FILES,
                etag_timeout=_HUB_TIMEOUT,
                endpoint=endpoint,
            )
        )
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            raise InputError(_no_hub_model(name)) from error
        raise InputError(
            f"{name} is neither a folder here nor in the hub cache, and the hub is out of reach; "
            "give a local folder, for example one from `scanseg convert CHECKPOINT --output FOLDER`"
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(_no_hub_model(name)) from error
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"could not get {name} from the hub: {_one_line(error)}") from error


def push_folder(
    folder: str | Path,
    hub_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a model folder to the hub, its notice as the model card.

    Args:
        folder: as ``save_folder`` wrote it.
        hub_id: ``owner/name``; made if it does not exist.
        private: of a model that is made. Converted official weights are CC BY-NC: think before you
            make them public.
        token: of the hub; the stored login otherwise.
        endpoint: address of a hub mirror.

    Returns:
        Address of the commit.

    Raises:
        InputError: the folder is no whole model folder, or the hub refuses or is out of reach.
    """
    if not _is_hub_id(hub_id):
        raise InputError(f"{hub_id!r} is no hub id; write owner/name")
    folder = Path(folder)
    load_folder(folder, verify=True)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(hub_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=hub_id,
            folder_path=folder,
            allow_patterns=_HUB_FILES,
            commit_message="Upload a scanseg model",
        )
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(f"could not upload to {hub_id}: {_one_line(error)}") from error
    return commit.commit_url


def shipped(package: str, name: str) -> AbstractContextManager[Path]:
    """``with shipped("scanseg.proposals", "x.safetensors") as path:`` a file of this package."""
    return resources.as_file(resources.files(package) / name)


def write_trained(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a small trained part: weights in float16 and what else is known of it, as text."""
    from safetensors.torch import save as to_bytes

    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as file:
        file.write(to_bytes(halves, metadata=dict(metadata)))


def read_trained(path: Path, what: str, made_by: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`write_trained` wrote: tensors in float32, and the metadata.

    Args:
        path: the file.
        what: it holds, for the error.
        made_by: command that makes one, for the error.

    Raises:
        InputError: the file is missing, or is no safetensors file.
    """
    if not path.is_file():
        raise InputError(f"no {what} {path}: make one with {made_by}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}): train or download it again"
        ) from error
    return tensors, metadata


def write_sized(path: Path, network: nn.Module, notes: Mapping[str, object]) -> None:
    """Write a small trained network with the sizes in its ``config``, for :func:`read_sized`."""
    sizes: Mapping[str, Any] = network.config  # type: ignore[assignment]
    metadata = {"sizes": json.dumps(dict(sizes)), "notes": json.dumps(notes)}
    write_trained(path, network.state_dict(), metadata)


def read_sized(path: Path, build: Callable[..., _Network], what: str, made_by: str) -> _Network:
    """Build and fill what :func:`write_sized` wrote; in evaluation mode, without gradients.

    Args:
        path: the file.
        build: the sizes by name -> a network.
        what: it holds, for errors.
        made_by: command that makes one, for errors.

    Raises:
        InputError: the file is missing, is no safetensors file or holds something else.
    """
    tensors, metadata = read_trained(path, what, made_by)
    if "sizes" not in metadata:
        raise InputError(f"{path} is no {what}: pass a file that {made_by} wrote")
    network = build(**json.loads(metadata["sizes"]))
    load_into(network, tensors, source=str(path))
    return network.eval().requires_grad_(False)


@contextmanager
def no_larger_than(tensors: Mapping[str, Tensor], *, source: str) -> Iterator[None]:
    """``with no_larger_than(tensors, ...):`` modules built inside may not outgrow their weights.

    What a configuration describes is known only when it is built, and numbers that lie (65,536
    layers) take minutes then. So it ends where the parameters made are far more than ``tensors``,
    which fill them right after. What other threads build does not count.

    Args:
        tensors: the weights to come.
        source: where they come from, for the error.

    Raises:
        InputError: the model is far larger than its weights.
    """
    shape = getattr(tensors, "shape", lambda n: tuple(tensors[n].shape))
    thread, names = threading.get_ident(), _SPARE_SIZE * len(tensors) + _SPARE_NAMES
    values = _SPARE_SIZE * sum(math.prod(shape(name)) for name in tensors)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal names, values
        if threading.get_ident() != thread or parameter is None:
            return
        names, values = names - 1, values - parameter.numel()
        if names < 0 or values < 0:
            raise InputError(
                f"the configuration of {source} describes a far larger model than its weights"
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


class skip_initialisation(TorchFunctionMode):  # noqa: N801  (used like a function)
    """``with skip_initialisation():`` modules built inside keep whatever memory held.

    Building a model whose weights are loaded right after need not draw random ones first (seconds
    for ViT-L). Only for strict loading: nothing else gives these parameters values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Return the tensor of an initialiser as it is; call everything else."""
        named = kwargs or {}
        initialiser = getattr(func, "__module__", "") == "torch.nn.init"
        if initialiser or getattr(func, "__name__", "") in ("uniform_", "normal_"):
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def _is_hub_id(name: str) -> bool:
    owner, _, model = name.partition("/")
    parts = (owner, model)
    return all(
        p and p[0].isalnum() and all(c.isalnum() or c in "-_." for c in p) and ".." not in p
        for p in parts
    )


def _no_hub_model(name: str) -> str:
    return (
        f"no folder {name} here and no model {name} on the hub, or none that you may read; "
        "check the name, or log in with `hf auth login`"
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
