"""Agents, encoders and batches small enough for a test, and what watches them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from curl_rl.agents.rainbow import Rainbow, RainbowConfig
from curl_rl.agents.sac import Sac, SacConfig
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.cudagraph import replaced, tensors
from curl_rl.nn.encoders import Encoder, encoder_config, make_encoder
from curl_rl.objectives import OBJECTIVES, make_objective
from curl_rl.objectives.learner import Learner
from curl_rl.types import Batch, Future, Shapes

ACTIONS = 2
FRAMES = (9, 24, 24)
CROP = 20
ATARI = (4, 28, 28)
ONLINE = ("encoder", "critic", "actor", "objective")
RAINBOW_ONLINE = ("encoder", "heads", "objective")
RAINBOW_TARGETS = ("target_network", "target_encoder")
SMALL = {"crop": {"size": CROP}, "translate": {"pad": 2}, "cutout": {"least": 2, "most": 8}}

Steps = list[tuple[str, dict[str, Tensor], dict[str, Tensor]]]


def tiny_encoder(obs_shape: tuple[int, ...] = (9, CROP, CROP), *, bf16: bool = False) -> Encoder:
    name, fields = ("state", {}) if len(obs_shape) == 1 else ("paper", {"filters": 4, "depth": 2})
    return make_encoder(encoder_config(name, feature_dim=8, **fields), obs_shape, bf16=bf16)


def tiny_batch(
    seed: int = 0,
    *,
    size: int = 6,
    obs_shape: tuple[int, ...] = FRAMES,
    discrete: bool = False,
    horizon: int = 0,
    label_side: int = 0,
    classes: int = 0,
    device: str = "cpu",
) -> Batch:
    """Draw a batch of noise: uint8 frames for a shape (C, H, W), float32 states for (D,).

    With a `horizon` the last sample's episode ends before its first step, and the one before's after it.
    """
    generator = torch.Generator().manual_seed(seed)

    def observations(*steps: int) -> Tensor:
        if len(obs_shape) == 1:
            return torch.randn((size, *steps, *obs_shape), generator=generator)
        return torch.randint(256, (size, *steps, *obs_shape), generator=generator, dtype=torch.uint8)

    def actions(*steps: int) -> Tensor:
        if discrete:
            return torch.randint(ACTIONS, (size, *steps), generator=generator)
        return torch.rand((size, *steps, ACTIONS), generator=generator) * 2 - 1

    def future() -> Future:
        left = torch.tensor([*[horizon] * (size - 2), 1, 0])[-size:]
        mask = torch.arange(horizon) < left[:, None]
        return Future(observations(horizon), actions(horizon), torch.rand(mask.shape, generator=generator) * mask, mask)

    def labels() -> Tensor:
        return torch.randint(3, (size, label_side, label_side), generator=generator, dtype=torch.uint8)

    batch = Batch(
        obs=observations(),
        action=actions(),
        reward=torch.rand(size, generator=generator),
        discount=torch.where(torch.arange(size) == 1, 0.0, 0.99),
        next_obs=observations(),
        weight=torch.ones(size),
        index=torch.arange(size),
        episode=torch.arange(size) // 2,
        future=future() if horizon else None,
        labels=labels() if label_side else None,
        classes=torch.arange(size) % classes if classes else None,
    )
    return replaced(batch, {id(tensor): tensor.to(device) for tensor in tensors(batch)})


def tiny_learner(
    encoder: Encoder, objective: str, shapes: Shapes, *, augmentation: Any, config: Any, seed: int, **options: Any
) -> Learner:
    """Build what an agent learns to see by; `augmentation` is a name or a configuration."""
    if isinstance(augmentation, str):
        augmentation = AUGMENTATIONS[augmentation].Config(**SMALL.get(augmentation, {}))
    device = torch.device(options.pop("device", "cpu"))
    loss = make_objective(OBJECTIVES[objective].Config(**options), shapes)
    augment = AUGMENTATIONS[augmentation.name](augmentation)
    return Learner(encoder, loss, augment, pace=config.pace, device=device, seed=seed + 1)


def tiny_sac(
    objective: str = "curl",
    *,
    seed: int = 0,
    augmentation: Any = "crop",
    obs_shape: tuple[int, ...] = (9, CROP, CROP),
    options: dict[str, Any] | None = None,
    bf16: bool = False,
    device: str = "cpu",
    **fields: Any,
) -> Sac:
    """Build an agent as the trainer does, torch's global generator seeded first; `options` are the objective's."""
    torch.manual_seed(seed)
    encoder = tiny_encoder(obs_shape, bf16=bf16)
    shapes = Shapes(encoder.feature_dim, encoder.conv_shape, ACTIONS, image_size=FRAMES[-1], cells=encoder.cells)
    config = SacConfig(**{"hidden_dim": 16, "learning_rate": 1e-3, **fields})
    seen = {"augmentation": augmentation, "config": config, "seed": seed, "device": device}
    learner = tiny_learner(encoder, objective, shapes, **seen, **options or {})
    return Sac(config, learner=learner, action_dim=ACTIONS, device=torch.device(device), seed=seed)


def tiny_rainbow(
    objective: str = "curl",
    *,
    seed: int = 0,
    augmentation: Any = "crop_shift",
    obs_shape: tuple[int, ...] = ATARI,
    options: dict[str, Any] | None = None,
    bf16: bool = False,
    device: str = "cpu",
    **fields: Any,
) -> Rainbow:
    """Build an agent as `tiny_sac` does."""
    torch.manual_seed(seed)
    encoder = make_encoder(encoder_config("data_efficient"), obs_shape, bf16=bf16)
    shapes = Shapes(encoder.feature_dim, encoder.conv_shape, ACTIONS, True, obs_shape[-1], encoder.cells)
    config = RainbowConfig(**{"hidden_dim": 16, "learning_rate": 1e-3, "adam_epsilon": 1e-8, **fields})
    if options is None and objective == "curl":
        options = {"projection_dim": 8, "projection_hidden": 16, "logit_scale": 0.1}
    seen = {"augmentation": augmentation, "config": config, "seed": seed, "device": device}
    learner = tiny_learner(encoder, objective, shapes, **seen, **options or {})
    return Rainbow(config, learner=learner, action_dim=ACTIONS, device=torch.device(device), seed=seed)


def atari_batch(seed: int = 0, **fields: Any) -> Batch:
    """Draw a batch of noise for `tiny_rainbow`."""
    return tiny_batch(seed, **{"obs_shape": ATARI, "discrete": True, **fields})


def part(agent: Sac | Rainbow, name: str) -> nn.Module:
    """Return a module of an agent or of its learner."""
    return getattr(agent if hasattr(agent, name) else agent.learner, name)


def parameters(agent: Sac | Rainbow, *modules: str) -> dict[str, Tensor]:
    """Return the parameters of these modules, or of all that exist, under full names."""
    rainbow = isinstance(agent, Rainbow)
    every = (*RAINBOW_ONLINE, *RAINBOW_TARGETS) if rainbow else (*ONLINE, "target_encoder", "target_critic")
    named: dict[str, Tensor] = {f"{m}.{n}": p for m in modules or every for n, p in part(agent, m).named_parameters()}
    if not modules and not rainbow:
        named["log_alpha"] = agent.log_alpha
    return named


def copies(agent: Sac | Rainbow, *modules: str) -> dict[str, Tensor]:
    """Return copies of the same parameters."""
    return {name: p.detach().clone() for name, p in parameters(agent, *modules).items()}


def gradients(agent: Sac | Rainbow, *modules: str) -> dict[str, Tensor]:
    """Return copies of the gradients that these parameters have."""
    return {name: p.grad.clone() for name, p in parameters(agent, *modules).items() if p.grad is not None}


def watch_steps(agent: Sac) -> Steps:
    """Return a list that grows by (optimiser, parameters before, parameters after) at each optimiser step."""
    seen: Steps = []
    for name, optimizer in agent.optimizers.items():
        optimizer.register_step_pre_hook(lambda *_, name=name: seen.append((name, copies(agent), {})))
        optimizer.register_step_post_hook(lambda *_: seen[-1][2].update(copies(agent)))
    return seen


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the modules that a step changed, be it by one bit."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def watch_inputs(module: nn.Module) -> list[Tensor]:
    """Return a list that grows by the module's input at each call."""
    seen: list[Tensor] = []
    module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    return seen


def watch_maps(encoder: Encoder) -> list[Tensor]:
    """Return a list that grows by the scaled images, or tiles of them, at each pass through the convolutions."""
    seen: list[Tensor] = []
    encoder_map = encoder.map

    def watched(images: Tensor) -> Tensor:
        seen.append(images.clone())
        return encoder_map(images)

    encoder.map = watched
    return seen


def leaves(state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, dict | list):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from ((f"{key}.{name}", leaf) for name, leaf in leaves(value))
    else:
        yield "", state


def assert_equal_states(one: Sac | Rainbow, other: Sac | Rainbow) -> None:
    first, second = dict(leaves(one.state_dict())), dict(leaves(other.state_dict()))
    assert first.keys() == second.keys()
    differ = [n for n, v in first.items() if not (v.equal(second[n]) if torch.is_tensor(v) else v == second[n])]
    assert differ == []


def run(agent: Sac | Rainbow, updates: range) -> list[dict[str, Tensor]]:
    """Act and update as a trainer does, and return every update's metrics."""
    results = []
    config = agent.learner.objective.config
    extras = {"horizon": config.horizon, "label_side": 5 * ("labels" in config.needs)}
    extras["classes"] = 3 * ("classes" in config.needs)
    for i in updates:
        batch = atari_batch(i, **extras) if isinstance(agent, Rainbow) else tiny_batch(i, **extras)
        agent.act(batch.obs[:1].numpy(), explore=True)
        results.append(agent.update(batch).metrics)
    return results
