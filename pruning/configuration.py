"""Strict configurations: frozen dataclasses read from YAML and ``a.b=c`` overrides.

OmegaConf (structured configurations) does the parsing, typing and merging. This module turns its errors into one line
that names the file and the key and proposes the nearest existing key. Fields may be nested dataclasses, ``Optional``,
``Enum`` (given by name), ``Literal``, ``list[X]``, ``dict[str, X]`` and ``tuple[X, ...]``. A list field is returned as
a list and a tuple field as a tuple; both are written as YAML lists.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from pruning import limits, old_forms
from pruning.errors import UserError
from pruning.files import PathLike, write_text

T = TypeVar("T")


def load(cls: type[T], path: Optional[PathLike] = None, overrides: Sequence[str] = ()) -> T:
    """Read a configuration: the defaults of ``cls``, then the YAML file, then the overrides.

    Args:
        cls: a (frozen) dataclass; fields without a default must be given by the file or the overrides.
        path: a YAML file; None to use only the defaults.
        overrides: ``"a.b=c"`` assignments, c read as YAML: ``"optimiser.lr=1e-3"``, ``"layers=[1,2]"``; a mapping
            such as ``"parts={x: 1}"`` or ``"parts={}"`` replaces the previous mapping.

    Raises:
        UserError: the file is missing or is not YAML, a key is unknown or missing, a value has the wrong type.
    """
    sources: list[tuple[str, Any]] = []
    if path is not None:
        sources.append((str(path), _read_yaml(Path(path))))
    whole: list[str] = []
    if overrides:
        given, whole = _read_overrides(overrides)
        sources.append(("the command line", given))
    return _merge(cls, sources, whole)


def read(path: PathLike) -> Mapping[str, Any]:
    """Return the content of a YAML file as plain values, without checking it against a configuration class.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    values: Any = OmegaConf.to_container(_read_yaml(Path(path)))
    return values


def from_dict(cls: type[T], values: Mapping[str, Any], origin: str) -> T:
    """Make a configuration from a plain dictionary, as strictly as :func:`load`.

    Args:
        origin: where the values come from, for error messages; usually a file.

    Raises:
        UserError: a key is unknown or missing, a value has the wrong type.
    """
    return _merge(cls, [(origin, OmegaConf.create(dict(values)))])


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as a plain dictionary for JSON or YAML: enums by name, tuples as lists."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    return _plain(container)


def defaults(cls: type[Any]) -> dict[str, Any]:
    """Return the default values of a configuration class as a plain dictionary."""
    return _plain(OmegaConf.to_container(OmegaConf.structured(cls), throw_on_missing=False, enum_to_str=True))


def save(config: Any, path: PathLike) -> None:
    """Write a configuration (a dataclass or a plain dictionary) as YAML, atomically."""
    values = dict(config) if isinstance(config, Mapping) else to_dict(config)
    write_text(path, yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, width=120))


def changed_keys(
    before: Mapping[str, Any], now: Mapping[str, Any], absent: Optional[Mapping[str, Any]] = None
) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ between two plain configurations, with both values (None if absent).

    Args:
        before, now: the configurations.
        absent: values to assume for keys that ``before`` lacks because an older version without them wrote it.
    """
    old, new = dict(_flatten(before)), dict(_flatten(now))
    old = {**{key: value for key, value in _flatten(absent or {}) if key in new}, **old}
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _read_yaml(path: Path) -> Any:
    try:
        values = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"configuration {path} does not exist", "give the path of a YAML file") from None
    except IsADirectoryError:
        raise UserError(f"configuration {path} is a directory", "give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"configuration {path} is not valid YAML ({_first_line(error)})", "correct the file") from None
    except OSError as error:
        if error.errno is not None:
            raise
        # OmegaConf raises this for a file that contains a single number or word
        raise UserError(f"configuration {path} contains no keys", "write it as 'key: value' lines") from None
    if not isinstance(values, DictConfig):
        raise UserError(f"configuration {path} is a list", "write it as 'key: value' lines")
    if not set(values) & set(old_forms.MOVED):
        return values
    try:
        return OmegaConf.create(old_forms.configuration(_one_level(values)))
    except ValueError as error:
        raise UserError(f"configuration {path}: {error}", "remove the old one") from None


def _one_level(values: DictConfig) -> dict[str, Any]:
    """Return the nodes of a mapping by key, with what they refer to left as it is written."""
    return {str(key): values._get_node(key) for key in values}


def _read_overrides(overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Return the settings, and the keys whose values are whole mappings."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise UserError(f"'{override}' is not a setting", "write it as key=value, for example optimiser.lr=1e-3")
    given, whole = OmegaConf.create(), []
    try:
        for override in map(old_forms.setting, overrides):
            key = override.partition("=")[0]
            value = OmegaConf.select(OmegaConf.from_dotlist([override]), key)
            if isinstance(value, DictConfig):
                whole.append(key)
            OmegaConf.update(given, key, value, merge=False, force_add=True)
        return given, whole
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(
            f"settings {' '.join(overrides)} cannot be read ({_first_line(error)})", "quote the value as YAML requires"
        ) from None


def _merge(cls: type[T], sources: Iterable[tuple[str, Any]], whole: Sequence[str] = ()) -> T:
    """Merge sources in order; in the last one, mappings under the keys ``whole`` replace earlier ones."""
    sources = list(sources)
    for key in whole:
        if _is_plain(OmegaConf.structured(cls), key):
            for _, earlier in sources[:-1]:
                if OmegaConf.select(earlier, key) is not None:
                    OmegaConf.update(earlier, key, {}, merge=False)
    config = OmegaConf.structured(cls)
    origin, values = "the defaults", OmegaConf.create()
    try:
        for source, given in sources:
            origin, values = source, given
            config = OmegaConf.merge(config, given)
            _check_limits(cls, config, source)
            _check_finite(config, source)
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except ConfigKeyError as error:
        key = error.full_key or str(error.key)
        raise UserError(f"unknown key '{key}' in {origin}", _proposal(cls, key)) from None
    except MissingMandatoryValue as error:
        raise UserError(f"key '{error.full_key}' is missing in {origin}", "set it") from None
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        wrong = getattr(error, "full_key", None) or _refused_key(cls, values)
        where = f"key '{wrong}' in {origin}" if wrong else f"configuration from {origin}"
        # OmegaConf does not fill in its placeholders for elements of tuples
        told = error.what if isinstance(error, UserError) else _first_line(error)
        reason = told.replace("'$VALUE' of type '$VALUE_TYPE'", "of an element")
        raise UserError(f"{where} is not valid: {reason}", "correct the value") from None


def _check_limits(cls: type, config: Any, source: str, prefix: str = "") -> None:
    """Reject values outside the limits that the fields of a dataclass, and of nested dataclasses, declare."""
    stated = limits.limits(cls)
    plain: Any = OmegaConf.to_container(config, enum_to_str=True)
    for name in map(str, config):
        if OmegaConf.is_missing(config, name) or config[name] is None:
            continue
        kind = OmegaConf.get_type(config, name)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            _check_limits(kind, config[name], source, f"{prefix}{name}.")
        elif name in stated:
            problem = limits.problem_of(_plain(plain[name]), stated[name])
            if problem:
                raise UserError(f"key '{prefix}{name}' in {source} {problem}", "correct it")


def _check_finite(config: Any, source: str) -> None:
    """Reject numbers that are not finite: no setting has a use for them."""
    for key, value in _flatten(OmegaConf.to_container(config)):  # type: ignore[arg-type]
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"key '{key}' in {source} must be finite, got {value}", "correct it")


def _is_plain(config: DictConfig, key: str) -> bool:
    """Return whether the value of a key is a plain mapping, not a configuration with its own fields."""
    try:
        return OmegaConf.get_type(OmegaConf.select(config, key)) is dict
    except OmegaConfBaseException:  # no such key: reported later
        return False


def _refused_key(cls: type, values: Any) -> Optional[str]:
    """Return the first key that is rejected on its own, for errors that do not name one."""
    for key, value in _flatten(OmegaConf.to_container(values)):  # type: ignore[arg-type]
        one = OmegaConf.create()
        OmegaConf.update(one, key, value, force_add=True)
        try:
            OmegaConf.merge(OmegaConf.structured(cls), one)
        except (OmegaConfBaseException, ValueError, TypeError):
            return key
    return None


def _proposal(cls: type, unknown: str) -> str:
    """Return the remedy for an unknown key: the same name elsewhere, or the most similar names, or its siblings."""
    known = list(_known_keys(cls))
    leaf = unknown.rsplit(".", 1)[-1]
    same_leaf = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    close = difflib.get_close_matches(unknown, known, n=2)
    close += [key for key in known if difflib.get_close_matches(leaf, [key.rsplit(".", 1)[-1]], cutoff=0.75)]
    candidates = same_leaf or list(dict.fromkeys(close))[:2]
    if candidates:
        return "did you mean " + " or ".join(f"'{key}'" for key in candidates) + "?"
    level = unknown.rsplit(".", 1)[0] + "." if "." in unknown else ""
    siblings = [key for key in known if key.startswith(level) and "." not in key[len(level) :]]
    return "known keys are " + ", ".join(siblings or known)


def _known_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all fields of a dataclass and of nested dataclasses (direct or ``Optional``)."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield prefix + field.name
        for candidate in (hints[field.name], *get_args(hints[field.name])):
            if dataclasses.is_dataclass(candidate) and isinstance(candidate, type):
                yield from _known_keys(candidate, f"{prefix}{field.name}.")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
