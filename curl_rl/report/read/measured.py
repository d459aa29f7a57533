"""How the runs of a section were measured, in words, and what readers must be warned of before they compare them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, TypeVar

from curl_rl.report.read import published
from curl_rl.report.read.sections import Section
from curl_rl.run.records import Run
from curl_rl.types import Origin

Key = TypeVar("Key", int, str, "int | str")
Item = TypeVar("Item", int, str)

_NO_COMMIT = "none (an installed package)"
_METHOD: Callable[[Run], str] = attrgetter("method")


def protocol(section: Section) -> str:
    """Return one paragraph: what is seen, how long actions are held, the preset, the episodes of a score."""
    first = section.runs[0]
    if "protocol" in section.kind.settings:
        parts = [f"protocol {_named(first)} (hash {first.protocol})"]
    else:
        repeats = _by_value(section.runs, _action_repeat, lambda run: run.task.partition("/")[2])
        parts = [_seen(first), f"action repeat {repeats}"]
    parts.append(f"preset {_by_value(section.runs, _preset)}")
    parts.append(f"{_by_value(section.runs, _episodes)} episodes in the last evaluation")
    return f"Measured with: {'; '.join(parts)}."


def warnings(section: Section) -> list[str]:
    """Return what differs where a reader would take it to be alike, or from what was published."""
    checks = (_protocol_warning, _preset_warning, _episodes_warning, _segments_warning, _origin_warning, _seeds_warning)
    return [warning for check in checks for warning in check(section)]


def origin_parts(origin: Origin) -> dict[str, str]:
    """Return what an origin says of code and machine, by name."""
    return {"commit": origin.commit or _NO_COMMIT, "versions": origin.versions, "hardware": origin.hardware}


def _protocol_warning(section: Section) -> Iterator[str]:
    name = section.runs[0].config["env"].get("protocol")
    theirs = published.PROTOCOLS.get(section.suite, name)
    if name != theirs:
        yield (
            f"Protocol {_named(section.runs[0])}, not {theirs}, by which the published results were measured: they "
            "are not comparable."
        )


def _preset_warning(section: Section) -> Iterator[str]:
    if not published.methods(section.suite):
        return
    methods = _grouped(section.runs, _preset, _METHOD)
    for preset, names in methods.items():
        if preset != "paper":
            of = "" if len(methods) == 1 else f" ({', '.join(names)})"
            yield f"Settings of preset {preset}{of}, not the published ones."


def _episodes_warning(section: Section) -> Iterator[str]:
    counts = _grouped(section.runs, _METHOD, _episodes)
    if len({tuple(sorted(of_method)) for of_method in counts.values()}) > 1:
        told = _by_value(section.runs, _episodes)
        yield f"Methods differ in the number of episodes of their last evaluation: {told}."


def _segments_warning(section: Section) -> Iterator[str]:
    for run in section.runs:
        if run.segments:
            yield f"{run.method} on {run.task}, seed {run.seed}, {run.went_on}."


def _origin_warning(section: Section) -> Iterator[str]:
    """Say in one line which methods have seeds of several commits, versions or machines."""
    told = []
    for kind in ("commit", "versions", "hardware"):
        found: dict[tuple[str, ...], list[str]] = {}
        for method in section.methods:
            origins = [origin for run in section.runs if run.method == method for origin in run.origins]
            values = sorted({origin_parts(origin)[kind] for origin in origins})
            if len(values) > 1:
                found.setdefault(tuple(_apart(values) if kind == "versions" else values), []).append(method)
        told += [f"{kind} {' | '.join(values)} ({', '.join(methods)})" for values, methods in found.items()]
    if told:
        yield f"Runs of one method come from different code or machines: {'; '.join(told)}."


def _seeds_warning(section: Section) -> Iterator[str]:
    counts = {method: [len(section.seeds(method, task)) for task in section.common_tasks] for method in section.methods}
    unequal = {method: runs for method, runs in counts.items() if len(set(runs)) > 1}
    if unequal:
        told = ", ".join(f"{method} {min(runs)} to {max(runs)}" for method, runs in unequal.items())
        yield (
            f"Tasks have unequal numbers of seeds ({told}): the interquartile mean is over all runs, so that tasks "
            "with more seeds weigh more in it."
        )


def _named(run: Run) -> str:
    return run.config["env"].get("protocol") or "without a name"


def _seen(run: Run) -> str:
    env = run.config["env"]
    if env.get("obs") == "state":
        return "joint positions and velocities instead of images"
    size = env.get("image_size", "unknown")
    return f"images of {size} × {size} pixels{_distracted(env)}"


def _distracted(env: Mapping[str, Any]) -> str:
    if not (distraction := env.get("distraction")):
        return ""
    moves = "changing from frame to frame" if env["distraction_dynamic"] else "changing from episode to episode"
    return f" under {distraction} ({env['distraction_intensity']}, {moves}; evaluated on others than trained on)"


def _action_repeat(run: Run) -> int | str:
    repeat = run.config["env"].get("action_repeat")
    return repeat if isinstance(repeat, int) else "unknown"


def _preset(run: Run) -> str:
    return str(run.config.get("preset") or "unknown")


def _episodes(run: Run) -> int:
    return len(run.evaluations[-1].returns)


def _by_value(runs: Iterable[Run], value: Callable[[Run], int | str], name: Callable[[Run], str] = _METHOD) -> str:
    """Write a value that all runs share, or each value with the names of the runs that have it: "2 (a), 8 (b, c)"."""
    groups = _grouped(runs, value, name)
    if len(groups) == 1:
        return str(next(iter(groups)))
    ordered = sorted(groups.items(), key=lambda group: (isinstance(group[0], str), group[0]))
    return ", ".join(f"{key} ({', '.join(names)})" for key, names in ordered)


def _grouped(runs: Iterable[Run], key: Callable[[Run], Key], value: Callable[[Run], Item]) -> dict[Key, list[Item]]:
    """Return the different values under each key, in the order of the runs."""
    groups: dict[Key, dict[Item, None]] = {}
    for run in runs:
        groups.setdefault(key(run), {})[value(run)] = None
    return {name: list(values) for name, values in groups.items()}


def _apart(values: Iterable[str]) -> list[str]:
    """Return lists of versions without the packages that all of them have alike."""
    lists = [value.split() for value in values]
    shared = set(lists[0]).intersection(*lists)
    return [" ".join(word for word in words if word not in shared) or "fewer packages" for words in lists]
