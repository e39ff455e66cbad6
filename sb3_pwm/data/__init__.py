"""Experience: the sequence replay buffer, offline data sets, and the batches they yield."""

from sb3_pwm.data.batch import SequenceBatch
from sb3_pwm.data.buffers import SequenceReplayBuffer
from sb3_pwm.data.dataset import OfflineDataset

__all__ = ["OfflineDataset", "SequenceBatch", "SequenceReplayBuffer"]
