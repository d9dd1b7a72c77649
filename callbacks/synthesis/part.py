"""What every exchangeable part of the synthesis shares: its settings and their fingerprint."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from lightning_modules.errors import ConfigError


class Part:
    """A step of the synthesis that the configuration chooses by ``class_path``.

    Attributes:
        volatile: Names of settings that change the speed but not the result, such as the batch size.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"batch_size", "download"})

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine the result, as plain JSON values.

        Public attributes count; names that begin with an underscore and those in ``volatile`` do not.
        """
        chosen = {
            name: plain(value)
            for name, value in sorted(vars(self).items())
            if not name.startswith("_") and name not in self.volatile
        }
        # A default part of jsonargparse is an instance of a class made on the fly.
        return {"class": type(self).__name__.removeprefix("LazyInstance_"), **chosen}


def plain(value: Any) -> Any:
    """Turn a setting into what JSON gives back after a round trip (tuples to lists, paths to strings)."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)


def digest(value: Any) -> str:
    """Return a short SHA-256 of plain data: equal data, equal digest, on every machine."""
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_fingerprint(file: Path, stored: Any, expected: dict[str, Any], remedy: str) -> None:
    """Compare the settings a file was made with against those of this run.

    Args:
        file: The file that carries the fingerprint.
        stored: What it carries.
        expected: What this run would write.
        remedy: What to delete in order to make it anew.

    Raises:
        ConfigError: They differ; the message names the settings with both values.
    """
    if stored == plain(expected):
        return
    old, new = _flat(stored if isinstance(stored, dict) else {}), _flat(plain(expected))
    changed = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    shown = "; ".join(f"{name}: {old.get(name)!r} then, {new.get(name)!r} now" for name in changed[:4])
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    raise ConfigError(f"{file} was made with other settings ({shown}{more}): restore them, or {remedy}")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
