"""Agent and RL post-training as a job of jobs: rollouts, reward, update, push of the weights."""

from euston.post_training.loop import Plan, Record, Run, asynchronous, in_batches, post_train
from euston.post_training.push import push_seconds
from euston.post_training.reward import Reward
from euston.post_training.rollout import Episode
from euston.post_training.trajectories import Shape, Trajectory, draw

__all__ = [
    "Episode",
    "Plan",
    "Record",
    "Reward",
    "Run",
    "Shape",
    "Trajectory",
    "asynchronous",
    "draw",
    "in_batches",
    "post_train",
    "push_seconds",
]
