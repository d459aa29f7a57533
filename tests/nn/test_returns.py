"""Returns on atoms and as a mean, by hand."""

import pytest
import torch

from curl_rl.nn.returns import Returns

CPU = torch.device("cpu")


def test_on_atoms_a_mean_is_weighed_and_a_target_is_projected():
    returns = Returns(3, -1.0, 1.0, CPU)
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    torch.testing.assert_close(returns.mean(logits), torch.tensor([-0.25, 0.7]))
    goal = returns.target(logits, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.0]))
    # Atoms -1, 0, 1 go to 0, 0.5, 1, of which the middle one is halved; without a future all is at 0.
    torch.testing.assert_close(goal, torch.tensor([[0.0, 0.625, 0.375], [0.0, 1.0, 0.0]]))
    loss = returns.compare(logits, goal)
    expected = -(goal * logits).sum(1)
    torch.testing.assert_close(loss, expected)


def test_one_atom_is_the_mean_itself():
    returns = Returns(1, -10.0, 10.0, CPU)
    logits = torch.tensor([[[3.0], [-20.0]]])
    assert returns.mean(logits).tolist() == [[3.0, -20.0]]
    goal = returns.target(torch.tensor([[4.0], [2.0]]), torch.tensor([1.0, 0.5]), torch.tensor([0.5, 0.0]))
    assert goal.tolist() == [[3.0], [0.5]]
    loss = returns.compare(torch.tensor([[3.5], [-2.5]]), goal)
    assert loss.tolist() == pytest.approx([0.125, 2.5])  # quadratic within 1, linear beyond
