"""Train an encoder, export it, and let stable-baselines3 learn on its features: pip install -e ".[sb3]"."""

from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from curl_rl.adapters.sb3 import CurlFeatures
from curl_rl.config.overrides import compose
from curl_rl.envs import make_env
from curl_rl.representation.export import export_run
from curl_rl.run.trainer import train


def main() -> None:
    """Train, export, and learn with stable-baselines3 on the frozen features."""
    config = compose(["task=toy/reach", "budget_frames=300", "run_dir=runs/encoder"])
    train(config)
    folder = export_run(config.run_dir, "runs/encoder/exported")

    env = DummyVecEnv([lambda: make_env(config.task, image_size=config.env.image_size)])
    agent = SAC(
        "CnnPolicy",
        VecFrameStack(env, config.env.frame_stack, channels_order="first"),
        buffer_size=500,
        learning_starts=100,
        policy_kwargs={
            "features_extractor_class": CurlFeatures,
            "features_extractor_kwargs": {"encoder": folder, "freeze": True},
        },
    )
    agent.learn(120)
    agent.save("runs/encoder/sb3")  # it holds the weights: the exported folder is not read again
    print(f"learned on {agent.actor.features_extractor.features_dim} features")


if __name__ == "__main__":
    main()
