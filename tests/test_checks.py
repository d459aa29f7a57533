"""Checks of configuration fields: what passes, what is refused, and what the refusal says."""

import math
from types import SimpleNamespace

import pytest

from curl_rl import checks
from curl_rl.types import ConfigError


@pytest.mark.parametrize(
    ("check", "args", "good", "bad", "message"),
    [
        (checks.one_of, (("a", "b"),), ["a", "b"], ["c", "", None], r"={} is none of a, b"),
        (checks.at_least, (2,), [2, 3, 2.0], [1, -3], r" must be at least 2, got {}"),
        (checks.at_least, (0,), [0.0, 9.5], [-0.1, math.nan, math.inf], r" must be finite and at least 0, got {}"),
        (checks.positive, (), [1e-9, 3], [0, -1.0, math.nan, math.inf], r" must be finite and positive, got {}"),
        (checks.fraction, (), [1e-9, 1, 1.0], [0, 1.01, math.nan], r" must be in \(0, 1\], got {}"),
        (checks.share, (), [0, 0.5, 1], [-0.1, 1.01, math.nan], r" must be in \[0, 1\], got {}"),
    ],
)  # fmt: skip
def test_a_check_passes_the_good_and_names_the_mend_for_the_bad(check, args, good, bad, message):
    for value in good:
        check(SimpleNamespace(x=value), "agent.", *args, "x")
    for value in bad:
        with pytest.raises(ConfigError, match=rf"^agent\.x{message.format(repr(value))}$"):
            check(SimpleNamespace(x=value), "agent.", *args, "x")


def test_every_named_field_is_checked():
    config = SimpleNamespace(first=1, second=0)
    checks.at_least(config, "env.", 1, "first")
    with pytest.raises(ConfigError, match=r"^env\.second must be at least 1, got 0$"):
        checks.at_least(config, "env.", 1, "first", "second")
