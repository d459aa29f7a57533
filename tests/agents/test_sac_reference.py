"""SAC against the original program's numbers on real frames (tests/data/sac_84.npz) and against a plain twin.

The original's losses are taken at the initial parameters. Forward values agree to 1e-4, losses to 1e-5. Gradients are
held to 1e-4 of the largest element of their tensor, since single elements are sums of cancelling terms.
"""

import copy
import re

import numpy as np
import pytest
import torch
from places import DATA
from tiny import ACTIONS, CROP, parameters, tiny_batch, tiny_sac
from tiny import part as module_of
from torch import Tensor, nn
from torch.distributions import Normal

from curl_rl.agents.sac import Sac, SacConfig
from curl_rl.nn.augmentations import NoAugmentation
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.nn.losses import bilinear_logits, soft_q_target
from curl_rl.nn.remembering import Remembering
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.learner import Learner
from curl_rl.types import Batch, Crop, Shapes, Views

Values = dict[str, Tensor]
Sample = tuple[Batch, Views]


@pytest.fixture(scope="module")
def original() -> Values:
    with np.load(DATA / "sac_84.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def ours(name: str) -> str:
    """Translate the original's parameter name."""
    name = re.sub(r"encoder\.convs\.(\d)", lambda m: f"encoder.convs.{2 * int(m[1])}", name)
    name = name.replace("encoder.fc", "encoder.head.1").replace("encoder.ln", "encoder.head.2")
    return name.replace("Q1.trunk", "critic.q1").replace("Q2.trunk", "critic.q2")


def under(original: Values, prefix: str) -> Values:
    """Return the values below a prefix, under our names."""
    return {ours(key.removeprefix(prefix)): value for key, value in original.items() if key.startswith(prefix)}


def part(values: Values, prefix: str) -> Values:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


@pytest.fixture
def agent(original: Values) -> Sac:
    encoder = make_encoder(encoder_config("paper", filters=4, feature_dim=16), (9, 84, 84))
    objective = make_objective(OBJECTIVES["curl"].Config(), Shapes(16, encoder.conv_shape, 6))
    config = SacConfig(hidden_dim=32, learning_rate=1e-3)
    cpu, still = torch.device("cpu"), NoAugmentation(NoAugmentation.Config())
    learner = Learner(encoder, objective, still, pace=config.pace, device=cpu, seed=1)
    agent = Sac(config, learner=learner, action_dim=6, device=cpu, seed=0)
    for source, encoder_name, critic_name in (
        ("critic", "encoder", "critic"),
        ("critic_target", "target_encoder", "target_critic"),
    ):
        values = under(original, f"init/{source}/")
        getattr(learner, encoder_name).load_state_dict(part(values, "encoder."))
        getattr(agent, critic_name).load_state_dict(part(values, "critic."))
    # The original's actor carries the critic's convolutions; ours only has its own head.
    actor = under(original, "init/actor/")
    agent.actor.load_state_dict(
        {k.removeprefix("encoder."): v for k, v in actor.items() if not k.startswith("encoder.convs.")}
    )
    agent.learner.objective.load_state_dict({"weight": original["init/W"]})
    with torch.no_grad():
        agent.log_alpha.copy_(original["init/log_alpha"])
    return agent


@pytest.fixture
def sample(original: Values) -> Sample:
    obs, pos = original["batch/obs"], original["batch/pos"]
    batch = Batch(
        obs=obs,
        action=original["batch/action"],
        reward=original["batch/reward"][:, 0],
        discount=0.99 * original["batch/not_done"][:, 0],
        next_obs=original["batch/next_obs"],
        weight=torch.ones(len(obs)),
        index=torch.arange(len(obs)),
        episode=torch.arange(len(obs)),
    )
    offsets = torch.zeros((len(obs), 2), dtype=torch.int64)
    return batch, Views(Crop(obs, offsets), Crop(pos, offsets))


def assert_gradients(module: nn.Module, expected: Values, prefix: str = "") -> None:
    gradients = {prefix + name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4 * scale, msg=lambda m, n=name: n + m)


def test_every_trainable_value_of_the_original_has_its_place(original, agent):
    names = set(under(original, "init/critic/"))
    assert names == {f"{m}.{n}" for m in ("encoder", "critic") for n, _ in module_of(agent, m).named_parameters()}
    for key, value in under(original, "init/actor/").items():
        if key.startswith("encoder.convs."):
            assert torch.equal(agent.learner.encoder.state_dict()[key.removeprefix("encoder.")], value)


def test_next_action_and_target(original, agent, sample):
    batch, _ = sample
    with torch.no_grad():
        action, log_prob = agent.actor(agent.learner.encoder.conv(batch.next_obs), original["noise/next_action"])
        next_q = agent.target_critic(agent.learner.target_encoder(batch.next_obs), action)
        target = soft_q_target(batch.reward, batch.discount, next_q, log_prob, agent.log_alpha.exp())
    torch.testing.assert_close(action, original["critic/next_action"], rtol=1e-4, atol=1e-6)
    # The original's log(1 - a^2 + 1e-6) differs from the exact one by about 1e-6 / (1 - a^2) a dimension. No action
    # here exceeds 0.48, so all six make 6.5e-6 of a value above 13; nearer to the bounds the two part.
    torch.testing.assert_close(log_prob, original["critic/next_log_prob"][:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(target, original["critic/target_q"][:, 0], rtol=1e-5, atol=0)


def test_critic_values_loss_and_gradients(original, agent, sample):
    batch, _ = sample
    q = agent.critic(agent.learner.encoder(batch.obs), batch.action).detach()
    torch.testing.assert_close(q[0], original["critic/q1"][:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(q[1], original["critic/q2"][:, 0], rtol=1e-4, atol=1e-6)
    online, noise = Remembering(agent.learner.encoder), original["noise/next_action"]
    loss, _ = agent._critic_loss(batch, (batch.obs,), batch.next_obs, online, noise)
    torch.testing.assert_close(loss.detach(), original["critic/loss"], rtol=1e-5, atol=0)
    loss.backward()
    expected = under(original, "critic/grad/")
    assert_gradients(agent.learner.encoder, part(expected, "encoder."))
    assert_gradients(agent.critic, part(expected, "critic."))


def test_actor_and_temperature_losses_and_gradients(original, agent, sample):
    batch, _ = sample
    conv = agent.learner.encoder.conv(batch.obs).detach()
    action, log_prob = agent.actor(conv, original["noise/action"])
    torch.testing.assert_close(action.detach(), original["actor/action"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log_prob.detach(), original["actor/log_prob"][:, 0], rtol=1e-5, atol=0)
    metrics = agent._train_actor(conv, original["noise/action"])
    torch.testing.assert_close(metrics["actor_loss"], original["actor/loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(metrics["alpha_loss"], original["alpha/loss"], rtol=1e-5, atol=0)
    expected = {name.removeprefix("encoder."): value for name, value in under(original, "actor/grad/").items()}
    assert_gradients(agent.actor, expected)
    torch.testing.assert_close(agent.log_alpha.grad, original["alpha/grad"].float(), rtol=1e-5, atol=0)
    assert agent.target_entropy == float(original["alpha/target_entropy"])


def test_policy_log_std(original, agent, sample):
    """Zero noise leaves the mean; noise one then moves the pre-tanh action by the standard deviation."""
    conv = agent.learner.encoder.conv(sample[0].obs).detach()
    with torch.no_grad():
        mean, moved = (agent.actor(conv, torch.full((6, 6), n))[0].double().atanh() for n in (0.0, 1.0))
        torch.testing.assert_close(mean.tanh().float(), agent.actor.mode(conv))
    torch.testing.assert_close((moved - mean).log().float(), original["actor/log_std"], rtol=1e-3, atol=0)


def test_contrastive_latents_logits_loss_and_gradients(original, agent, sample):
    batch, views = sample
    with torch.no_grad():
        anchor, positive = agent.learner.encoder(views.query.images), agent.learner.target_encoder(views.key.images)
        logits = bilinear_logits(anchor, positive, agent.learner.objective.weight)
    torch.testing.assert_close(anchor, original["curl/anchor"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(positive, original["curl/positive"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, original["curl/logits"], rtol=1e-4, atol=1e-5)
    loss, _ = agent.learner.objective(batch, views, agent.learner.encoder, agent.learner.target_encoder)
    torch.testing.assert_close(loss.detach(), original["curl/loss"], rtol=1e-5, atol=0)
    loss.backward()
    expected = under(original, "curl/grad/")
    assert_gradients(agent.learner.objective, {"weight": expected.pop("W")})
    assert_gradients(agent.learner.encoder, part(expected, "encoder."))


def test_moving_averages_have_separate_taus(original, agent):
    assert (agent.config.critic_tau, agent.config.encoder_tau) == (0.01, 0.05)
    agent._average()
    expected = under(original, "ema/critic_target/")
    averaged = agent.learner.target_encoder.state_dict(prefix="encoder.") | agent.target_critic.state_dict(
        prefix="critic."
    )
    assert set(averaged) == set(expected)
    for name, value in averaged.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)


Inputs = tuple[Tensor, Tensor, Tensor, Batch, Tensor, bool]  # query, key, next_obs, batch, noise, whether it is even


class Plain:
    """The same algorithm without any of Sac's means: contiguous weights, plain Adam, one optimiser a network."""

    def __init__(self, agent: Sac):
        for name in ("encoder", "critic", "actor", "objective", "target_encoder", "target_critic"):
            module = copy.deepcopy(module_of(agent, name)).to(memory_format=torch.contiguous_format)
            setattr(self, name, module)
        self.log_alpha = agent.log_alpha.detach().clone().requires_grad_()

        def adam(*modules: nn.Module, lr: float = 1e-3) -> torch.optim.Adam:
            return torch.optim.Adam([p for m in modules for p in m.parameters()], lr=lr, fused=False, foreach=False)

        self.critic_optimizer = adam(self.encoder, self.critic)
        self.actor_optimizer = adam(self.actor)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=1e-4, betas=(0.5, 0.999), fused=False)
        # As in the original: an optimiser for the encoder and another for everything contrastive, the encoder included.
        self.encoder_optimizer = adam(self.encoder)
        self.contrastive_optimizer = adam(self.encoder, self.objective)
        self.joint_optimizer = adam(self.encoder, self.critic, self.objective)

    def policy(self, images: Tensor, noise: Tensor, conv: Tensor | None = None) -> tuple[Tensor, Tensor]:
        conv = self.encoder.conv(images).detach() if conv is None else conv
        mean, log_std = self.actor.trunk(self.actor.head(conv)).chunk(2, -1)
        std = (-10 + 6 * (log_std.tanh() + 1)).exp()
        u = mean + std * noise
        log_prob = Normal(mean, std).log_prob(u) - torch.log(1 - u.tanh().double() ** 2)
        return u.tanh(), log_prob.sum(-1).float()

    def critic_loss(self, obs: Tensor, next_obs: Tensor, batch: Batch, noise: Tensor) -> Tensor:
        with torch.no_grad():
            action, log_prob = self.policy(next_obs, noise)
            q = self.target_critic(self.target_encoder(next_obs), action).min(0).values
            target = batch.reward + batch.discount * (q - self.log_alpha.exp() * log_prob)
        q1, q2 = self.critic(self.encoder(obs), batch.action)
        return (batch.weight * (q1 - target) ** 2).mean() + (batch.weight * (q2 - target) ** 2).mean()

    def contrastive_loss(self, obs: Tensor, key: Tensor) -> Tensor:
        logits = self.encoder(obs) @ self.objective.weight @ self.target_encoder(key).detach().T
        return -logits.log_softmax(1).diagonal().mean()

    def actor_and_alpha(self, obs: Tensor, noise: Tensor, conv: Tensor | None = None) -> None:
        conv = self.encoder.conv(obs).detach() if conv is None else conv
        action, log_prob = self.policy(obs, noise, conv)
        q = self.critic(self.encoder.head(conv).detach(), action).min(0).values
        self.descend((self.log_alpha.exp().detach() * log_prob - q).mean(), self.actor_optimizer)
        self.descend((-self.log_alpha.exp() * (log_prob.detach() - ACTIONS)).mean(), self.alpha_optimizer)

    def average(self) -> None:
        for name, tau in (("critic", 0.01), ("encoder", 0.05)):
            for new, old in zip(getattr(self, name).parameters(), getattr(self, f"target_{name}").parameters()):  # noqa: B905
                old.data = tau * new.data + (1 - tau) * old.data

    @staticmethod
    def descend(loss: Tensor, *optimizers: torch.optim.Adam) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    def sequential(self, inputs: Inputs) -> None:
        obs, key, next_obs, batch, noise, even = inputs
        self.descend(self.critic_loss(obs, next_obs, batch, noise[0]), self.critic_optimizer)
        if even:
            self.actor_and_alpha(obs, noise[1])
            self.average()
        self.descend(self.contrastive_loss(obs, key), self.encoder_optimizer, self.contrastive_optimizer)

    def joint(self, inputs: Inputs) -> None:
        obs, key, next_obs, batch, noise, even = inputs
        conv = self.encoder.conv(obs).detach()
        loss = self.critic_loss(obs, next_obs, batch, noise[0]) + self.contrastive_loss(obs, key)
        self.descend(loss, self.joint_optimizer)
        if even:
            self.actor_and_alpha(obs, noise[1], conv)
            self.average()


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_updates_equal_those_of_a_plain_twin(update):
    """Two Adam optimisers on the encoder equal one at twice the rate; fused, channels-last steps equal plain ones."""
    agent = tiny_sac(update=update, augmentation="none")
    plain = Plain(agent)
    assert agent.learner.encoder.convs[0].weight.stride() != plain.encoder.convs[0].weight.stride()
    start = {name: p.detach().clone() for name, p in parameters(agent).items()}
    for i in range(6):
        batch = tiny_batch(i, obs_shape=(9, CROP, CROP))._replace(weight=torch.rand(6) + 0.5)
        generator = agent.generator.clone_state()
        noise = torch.randn((2, 6, ACTIONS), generator=generator)
        agent.update(batch)
        getattr(plain, update)((batch.obs, batch.obs, batch.next_obs, batch, noise, i % 2 == 0))
    theirs = parameters(plain)
    for name, p in parameters(agent).items():
        travelled = float((p.detach() - start[name]).norm())
        assert float((p - theirs[name]).detach().norm()) <= 0.01 * travelled, name
