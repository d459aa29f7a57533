"""Heads in plain form: the same function without a batch, described by what builds them again."""

import pytest
import torch
from torch import nn

from curl_rl.nn.parts import projection_head
from curl_rl.nn.plain import build_layers, count_linear, describe_layers, first_layers, out_features, plain


def trained_head(**options) -> nn.Sequential:
    torch.manual_seed(0)
    head = projection_head(6, 8, 4, **options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return head


HEADS = {
    "batch": {"depth": 3, "last_norm": True},
    "layer": {"norm": "layer"},
    "none": {"norm": "none"},
    "one": {"depth": 1},
}


@pytest.mark.parametrize("name", HEADS)
def test_a_plain_head_gives_what_the_head_gave_the_batch(name):
    head, features = trained_head(**HEADS[name]), torch.randn(50, 6)
    made = plain(head, features)
    assert made is not None
    torch.testing.assert_close(made(features), head(features), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(features[:1]), head(features)[:1], rtol=1e-4, atol=1e-5)  # one at a time too
    assert not any(layer.training for layer in made)


def test_its_description_builds_it_again():
    made = plain(trained_head(**HEADS["batch"]), torch.randn(9, 6))
    assert made is not None
    described = [["linear", 6, 8], ["batch_norm", 8], ["relu"], ["linear", 8, 8], ["batch_norm", 8], ["relu"]]
    described += [["linear", 8, 4], ["batch_norm", 4]]
    assert describe_layers(made) == described
    again, features = build_layers(described).eval(), torch.randn(3, 6)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(features), made(features))


@pytest.mark.parametrize(
    "head",
    [
        None,
        nn.Identity(),
        nn.Sequential(nn.Linear(6, 4), nn.GELU()),
        nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4, eps=1e-3)),
        nn.Sequential(nn.Sequential(nn.Linear(6, 4))),
    ],
    ids=["none", "identity", "gelu", "eps", "nested"],
)
def test_what_is_not_made_of_these_layers_has_no_plain_form(head):
    assert plain(head, torch.randn(9, 6)) is None


def test_the_first_layers_keep_what_follows_them():
    made = plain(trained_head(**HEADS["batch"]), torch.randn(9, 6))
    assert made is not None
    kinds = [[layer[0] for layer in describe_layers(first_layers(made, count))] for count in range(4)]
    one = ["linear", "batch_norm", "relu"]
    assert kinds == [[], one, one * 2, one * 2 + one[:2]]
    assert count_linear(made) == 3
    assert [out_features(first_layers(made, count), 6) for count in range(4)] == [6, 8, 8, 4]
    assert first_layers(made, 1)[0] is not made[0]
