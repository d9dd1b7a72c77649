"""Loading of pretrained models: local folder or hub id, no network unless asked, errors that name the key."""

import gc
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from .errors import ConfigError

T = TypeVar("T")
WEIGHT_SUFFIXES = (".safetensors",)


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        location: Existing local folder, or hub id.
        revision: Commit, tag or branch of a hub id; None for a folder.
        local: Whether ``location`` is a folder.
        download: Whether the network may be used.
        key: Configuration key of the location, to name in errors, for example ``synthesize.generator.model``.
    """

    location: str
    revision: str | None
    local: bool
    download: bool
    key: str

    def beside(self, name: str) -> str:
        """Key of another setting of the same part, to name in errors."""
        return f"{self.key.rpartition('.')[0]}.{name}"

    @property
    def local_files_only(self) -> bool:
        """Whether the hub must not be asked."""
        return self.local or not self.download

    @property
    def options(self) -> dict[str, Any]:
        """What every ``from_pretrained`` of a part of the model takes."""
        return {"revision": self.revision or "main", "local_files_only": self.local_files_only}


def find_source(model: str, revision: str | None, download: bool, key: str) -> Source:
    """Decide whether ``model`` is a folder or a hub id.

    A relative folder is looked up from the working directory, then from the repository.

    Raises:
        ConfigError: It looks like a path and does not exist, or the folder holds no weights.
    """
    for folder in (Path(model).expanduser(), Path(__file__).parents[1] / model):
        if folder.is_dir():
            _check_weights(folder, key)
            return Source(str(folder), None, True, False, key)
    is_hub_id = model.count("/") == 1 and not model.startswith((".", "~", "/")) and not model.startswith("assets/")
    if not is_hub_id:
        raise ConfigError(f"{key}: no folder {model!r}: give an existing folder or a hub id such as owner/name")
    return Source(model, revision, False, download, key)


def check_source(source: Source, index: str) -> None:
    """Find out, without loading it, whether a model is there; of a hub id at most the small index file is fetched.

    Args:
        source: The model.
        index: The file every such model has, ``config.json`` or ``model_index.json``.

    Raises:
        ConfigError: The index or the weights are missing, a weight file is truncated, or the hub cannot be asked.
    """
    from safetensors import SafetensorError, safe_open

    try:
        folder = Path(source.location) if source.local else _hub_index(source, index).parent
        if not (folder / index).is_file():
            raise OSError(f"there is no {index}")
        weights = [path for path in folder.rglob("*") if path.suffix in WEIGHT_SUFFIXES]
        if source.local_files_only and not weights:
            raise OSError("there are no weights")
        for path in weights:
            try:
                safe_open(path, "pt")  # reads the header and compares it with the length
            except SafetensorError as error:
                raise OSError(f"{path.relative_to(folder)}: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(_explain(source, error)) from error


def _hub_index(source: Source, index: str) -> Path:
    from huggingface_hub import hf_hub_download

    found = hf_hub_download(source.location, index, revision=source.revision, local_files_only=source.local_files_only)
    return Path(found)


def load(source: Source, loader: Callable[[], T]) -> T:
    """Run a ``from_pretrained`` call and translate what can go wrong into one line.

    Raises:
        ConfigError: Not in the cache, no network, unknown id or revision, no safetensors, unreadable files.
    """
    quieten()
    try:
        return loader()
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ConfigError(_explain(source, error)) from error


def load_model(source: Source, kind: Any, dtype: torch.dtype) -> Any:
    """Load a model or a pipeline from safetensors.

    Args:
        source: Where it comes from.
        kind: Class of transformers or diffusers with ``from_pretrained``.
        dtype: Of its weights.

    Raises:
        ConfigError: See :func:`load`.
    """
    return load(
        source, lambda: kind.from_pretrained(source.location, use_safetensors=True, dtype=dtype, **source.options)
    )


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn a dtype option into a dtype; ``auto`` is bfloat16 on a GPU that can, float16 on others, float32 on CPU."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def weights_digest(folder: Path) -> str:
    """A short SHA-256 of all weights in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in WEIGHT_SUFFIXES):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def free_memory() -> None:
    """Return what dropped models held, on the CPU and on the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def quieten() -> None:
    """Switch off the bars and hints that every rank would show for every part of a model; downloads keep their bars."""
    import diffusers.utils
    import transformers.utils

    libraries: tuple[Any, ...] = (diffusers, transformers)
    for library in libraries:
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def _check_weights(folder: Path, key: str) -> None:
    if not any(path.suffix in WEIGHT_SUFFIXES for path in folder.rglob("*") if path.is_file()):
        raise ConfigError(
            f"{key}: the folder {folder} holds no weights (*.safetensors): save the model there again, or choose "
            "another folder"
        )


def _explain(source: Source, error: Exception) -> str:
    """Return one line for a failed load."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if source.local:
        return f"{source.key}: {source.location} cannot be loaded ({first[:300]}): save the model there again"
    name = source.location + (f" (revision {source.revision})" if source.revision else "")
    if source.local_files_only:
        return (
            f"{source.key}: {name} is not complete in the local Hugging Face cache: "
            f"set {source.beside('download')}=true to fetch it, or give a local folder"
        )
    return (
        f"{source.key}: {name} could not be fetched or loaded ({first[:300]}): "
        "check the network, the id, the revision and that the repository holds safetensors, or give a local folder"
    )
