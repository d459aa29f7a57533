"""What `--help` shows of settings: every option with its value and its meaning."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def fields(config: Any, prefix: str) -> Iterator[str]:
    """Describe the options of a configuration, nested ones last."""
    nested = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "help" in field.metadata:
            yield row(f"{prefix}{field.name}={_shown(value)}", field.metadata["help"])
        elif dataclasses.is_dataclass(value) and field.default_factory is not dataclasses.MISSING:
            nested.append((field.name, value))
    for name, value in nested:
        yield ""
        yield from fields(value, f"{prefix}{name}.")


def describe_or_train(
    show: bool,
    overrides: Sequence[str],
    introduction: str,
    compose: Callable[..., Any],
    train: Callable[[Any], int],
) -> int:
    """Print every setting where that is asked for or nothing is given, else train; return the exit status."""
    if show or not overrides:
        print("\n".join(describe(introduction, compose(overrides, complete=False))))
        return 0
    return train(compose(overrides))


def describe(introduction: str, config: Any) -> Iterator[str]:
    """Describe every group and option of a command's configuration."""
    from curl_rl.config.schema import GROUPS, groups_of

    groups = groups_of(type(config))
    yield introduction
    if groups:
        yield "Groups, chosen by name:"
    for group in groups:
        yield row(group, ", ".join(sorted(GROUPS[group])))
    yield "\nSettings:"
    yield from fields(config, "")
    for group in groups:
        yield f"\n{group}={getattr(config, group).name}"
        yield from fields(getattr(config, group), f"{group}.")


def row(left: str, right: str) -> str:
    """Return a line of two columns."""
    return f"  {left:<38} {right}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
