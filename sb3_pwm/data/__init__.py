"""Experience: the sequence replay buffer and the batches it yields."""

from sb3_pwm.data.batch import SequenceBatch
from sb3_pwm.data.buffers import SequenceReplayBuffer

__all__ = ["SequenceBatch", "SequenceReplayBuffer"]
