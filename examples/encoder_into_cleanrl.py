"""Train an encoder, export it, and learn on its features with DQN in one file, as CleanRL writes it."""

import random
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.adapters.cleanrl import CurlFeatures
from curl_rl.config.overrides import compose
from curl_rl.envs import make_env
from curl_rl.representation.export import export_run
from curl_rl.run.trainer import train


@dataclass
class Args:
    """What a CleanRL script takes on its command line."""

    seed: int = 1
    total_timesteps: int = 600  # to see it run; with 8,000 four of the last five episodes reach the target
    learning_starts: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    gamma: float = 0.9
    tau: float = 0.05
    end_e: float = 0.1


class QNetwork(nn.Module):
    """CleanRL's, with the encoder in the place of its convolutions."""

    def __init__(self, actions: int, encoder: str):
        super().__init__()
        self.network = CurlFeatures(encoder)
        self.head = nn.Sequential(nn.Linear(self.network.feature_dim, 64), nn.ReLU(), nn.Linear(64, actions))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.network(x / 255.0))


def learn(args: Args, encoder: str) -> list[float]:
    """Learn toy/grid; return the episodes' returns."""
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    env = gym.wrappers.FrameStackObservation(make_env("toy/grid", image_size=28), 2)
    env = gym.wrappers.ReshapeObservation(env, (6, 28, 28))  # the encoder's: as many frames as in training
    q_network, target_network = QNetwork(4, encoder), QNetwork(4, encoder)
    target_network.load_state_dict(q_network.state_dict())
    optimizer = torch.optim.Adam(q_network.head.parameters(), lr=args.learning_rate)
    memory, returns, score = [], [], 0.0

    obs, _ = env.reset(seed=args.seed)
    for step in range(args.total_timesteps):
        epsilon = max(args.end_e, 1 - step / args.total_timesteps)
        with torch.no_grad():
            values = q_network(torch.as_tensor(obs)[None])
        action = random.randrange(values.shape[1]) if random.random() < epsilon else int(values.argmax())
        next_obs, reward, terminated, truncated, _ = env.step(action)
        memory.append((obs, action, reward, next_obs, terminated))
        obs, score = next_obs, score + float(reward)
        if terminated or truncated:
            obs, _ = env.reset()
            returns.append(score)
            score = 0.0
        if step < args.learning_starts:
            continue

        batch = [memory[i] for i in rng.integers(len(memory), size=args.batch_size)]
        seen, actions, rewards, then, ends = (torch.as_tensor(np.stack(part)) for part in zip(*batch, strict=True))
        with torch.no_grad():
            target = rewards.float() + args.gamma * target_network(then).amax(1) * ~ends
        loss = F.mse_loss(q_network(seen).gather(1, actions[:, None]).squeeze(1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for slow, fast in zip(target_network.head.parameters(), q_network.head.parameters(), strict=True):
            slow.data.lerp_(fast.data, args.tau)
    return returns


def main() -> None:
    """Train, export, and learn with DQN on the frozen features."""
    config = compose(["task=toy/grid", "agent=rainbow", "budget_frames=300", "run_dir=runs/encoder"])
    train(config)
    folder = export_run(config.run_dir, "runs/encoder/exported")
    returns = learn(Args(), str(folder))
    print(f"learned from {len(returns)} episodes, mean return {np.mean(returns):.2f}")


if __name__ == "__main__":
    main()
