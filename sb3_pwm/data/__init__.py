"""Experience: the sequence replay buffer, offline data sets, and batches of sequences."""

from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer
from sb3_pwm.data.types import Episode, SequenceBatch, SequenceSampling, TaskData

__all__ = ["Episode", "OfflineDataset", "SequenceBatch", "SequenceReplayBuffer", "SequenceSampling", "TaskData"]
