"""The presets of published agents on Atari, held to what their authors' configurations say."""

import pytest

from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config

# Names as in Dopamine's and BBF's gin files (google/dopamine, labs/atari_100k; google-research, bigger_better_faster).
# `replay_ratio` is in samples a step, of batches of 32; steps are the agent's.
DOPAMINE = {
    "learning_rate": 1e-4,
    "eps": 1.5e-4,
    "weight_decay": 0.0,
    "clipped": False,
    "batch_size": 32,
    "epsilon_eval": 0.001,
    "hidden_dim": 512,
    "dueling": "shared hidden layer",
    "encoder": "dqn, same",
    "update_horizon": 10,
    "gamma": 0.99,
    "resets": None,
    "training_steps": 100_000,
    "num_eval_episodes": 100,
}
DQN = {"target_update_tau": 1.0, "target_action_selection": False, "spr_weight": 0}
SPR = {
    "encoder": "dqn, same, renormalize",
    "spr_weight": 5,
    "jumps": 5,
    "data_augmentation": True,
    "replay_scheme": "prioritized",
    "num_atoms": 51,
}
BBF = {"min_replay_history": 2000, "epsilon_train": 0.0, "epsilon_decay_period": 2001, "target_update_period": 1}
AVERAGED = {"noise": 0, "target_update_tau": 0.005, "target_action_selection": True, "replay_ratio": 256}
PUBLISHED = {
    "der": {
        **DOPAMINE,
        **DQN,
        "noise": 0.1,  # sigma_init in dopamine/jax/networks.py; atari_100k/spr_networks.py has .5
        "min_replay_history": 1600,
        "epsilon_train": 0.01,
        "epsilon_decay_period": 2000,
        "target_update_period": 2000,
        "num_atoms": 51,
        "replay_scheme": "prioritized",
        "data_augmentation": False,
        "replay_ratio": 32,
    },
    "drq_eps": {
        **DOPAMINE,
        **DQN,
        "min_replay_history": 1600,
        "epsilon_train": 0.01,
        "epsilon_decay_period": 5000,
        "target_update_period": 1,
        "noise": 0,
        "num_atoms": 1,
        "replay_scheme": "uniform",
        "data_augmentation": True,
        "replay_ratio": 32,
    },
    "spr": {**DOPAMINE, **DQN, **BBF, **SPR, "noise": 0.5, "replay_ratio": 64},
    "sr_spr": {**DOPAMINE, **BBF, **SPR, **AVERAGED, "resets": (0.8, range(5_000, 95_001, 5_000))},
    "bbf": {
        **DOPAMINE,
        **BBF,
        **SPR,
        **AVERAGED,
        "weight_decay": 0.1,
        "hidden_dim": 2048,
        "encoder": "impala, width 4, renormalize",
        "update_horizon": (10, 3, 10_000),
        "gamma": (0.97, 0.997, 10_000),
        "resets": (0.5, range(5_000, 95_001, 5_000)),  # 20,000 steps at a replay ratio of 64
    },
}


def encoder_of(config: Config) -> str:
    encoder = config.encoder
    if encoder.name == "impala":
        assert encoder.feature_dim == 0
    kind = f"impala, width {encoder.width}" if encoder.name == "impala" else "dqn, same"
    assert encoder.name == "impala" or (encoder.name, encoder.padded) == ("canonical", True)
    return f"{kind}, renormalize" if encoder.stretch else kind


def annealed(config: Config, name: str) -> object:
    first, schedule = getattr(config.agent, name), config.agent.anneal
    return (first, getattr(schedule, name), schedule.updates) if schedule.updates else first


def resets_of(config: Config) -> tuple[float, range] | None:
    """Return the encoder's share that stays, and the agent steps at which the agent starts anew."""
    resets, each = config.agent.resets, config.updates_per_step
    if not resets.every:
        return None
    updates = (config.budget_frames // config.env.action_repeat - config.random_steps) * each
    counts = range(config.agent.offset + 1, config.agent.offset + updates + 1)
    found = [count for count in counts if resets.due(count)]
    steps = range(found[0] // each, found[-1] // each + 1, resets.every // each)
    assert [count // each for count in found] == list(steps)
    return resets.keep, steps


def scheme_of(config: Config) -> str:
    replay = config.replay
    if replay.sampler == "prioritized":  # priorities are square roots of losses, weights those of probabilities
        assert (replay.exponent, replay.beta, replay.last_beta, config.agent.priority) == (0.5, 0.5, 0.5, "value")
    return replay.sampler


def augmented(config: Config) -> bool:
    augmentation, averaging = config.augmentation, config.agent.averaging
    if augmentation.name == "none":
        return False
    seen = (augmentation.name, augmentation.pad, augmentation.intensity, averaging.k, averaging.m)
    assert seen == ("shift", 4, 0.05, 1, 1)
    return True


def spr_weight_of(config: Config) -> float:
    objective = config.objective
    if objective.name == "none":
        return 0
    agent, tau = config.agent, config.agent.target_tau
    assert (objective.name, objective.map_size, objective.projection_dim) == ("spr", 11, agent.hidden_dim)
    assert (agent.encoder_tau, objective.projection_tau) == (tau, tau)
    return objective.coefficient * objective.steps / 2  # theirs weighs the mean over steps of 2 - 2 cos


def settings_of(config: Config) -> dict[str, object]:
    agent = config.agent
    return {
        "learning_rate": agent.learning_rate,
        "eps": agent.adam_epsilon,
        "weight_decay": agent.weight_decay,
        "clipped": agent.max_grad_norm > 0,
        "batch_size": config.batch_size,
        "epsilon_eval": config.evaluation.epsilon,
        "hidden_dim": agent.hidden_dim,
        "dueling": "shared hidden layer" if agent.shared else "two hidden layers",
        "encoder": encoder_of(config),
        "update_horizon": annealed(config, "n_step"),
        "gamma": annealed(config, "discount"),
        "resets": resets_of(config),
        "training_steps": config.budget_frames // config.env.action_repeat,
        "num_eval_episodes": config.evaluation.final_episodes,
        "min_replay_history": config.random_steps,
        "epsilon_train": agent.explore.epsilon,
        "epsilon_decay_period": agent.explore.steps,
        "target_update_period": agent.target_period,
        "target_update_tau": agent.target_tau,
        "target_action_selection": agent.target_acts,
        "noise": agent.noise_std,
        "num_atoms": agent.atoms,
        "replay_scheme": scheme_of(config),
        "data_augmentation": augmented(config),
        "replay_ratio": config.updates_per_step * config.batch_size,
        "spr_weight": spr_weight_of(config),
        **({"jumps": config.objective.steps} if config.objective.name == "spr" else {}),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_agent_has_its_published_settings(name):
    config = compose(["task=atari/pong", f"preset={name}"])
    assert settings_of(config) == PUBLISHED[name]
    if name in ("der", "sr_spr", "bbf"):  # of the others every update is a period
        assert config.agent.offset == config.random_steps * config.updates_per_step
    assert (config.env.protocol, config.env.image_size, config.replay.capacity) == ("atari100k", 84, 100_000)
    if config.agent.atoms > 1:
        assert (config.agent.v_min, config.agent.v_max) == (-10, 10)


@pytest.mark.parametrize(("each", "steps"), [(1, 40_000), (2, 20_000), (4, 10_000), (8, 5_000), (16, 2_500)])
def test_the_last_reset_leaves_a_period_at_any_replay_ratio(each, steps):
    """BBF's reset_weights returns where training_steps + interval exceeds no_resets_after."""
    config = compose(["task=atari/pong", "preset=bbf", f"updates_per_step={each}"])
    found = [step for step in range(steps, 100_001, steps) if step + steps <= 100_000]
    assert resets_of(config) == (0.5, range(found[0], found[-1] + 1, steps))


def test_the_original_curl_copies_by_agent_step_and_weighs_by_both_losses():
    config = compose(["task=atari/ms_pacman", "preset=paper", "random_steps=1700"])
    agent = config.agent
    assert (agent.target_period, agent.offset, agent.priority, agent.target_tau) == (2000, 1700, "total", 1.0)
    twice = compose(["task=atari/ms_pacman", "preset=paper", "updates_per_step=2", "agent.offset=7"])
    assert twice.agent.offset == 7
    assert (agent.n_step, agent.hidden_dim, agent.noise_std, config.encoder.name) == (20, 256, 0.1, "data_efficient")
    assert (config.replay.beta, config.replay.last_beta, config.encoder.padding) == (0.4, 1.0, 0)
