"""Records a run of the Hugging Face Trainer. Needs `pip install 'finetooth[trainer]'`."""

from finetooth.extras import needs_extra

with needs_extra("trainer", "finetooth.trainer"):
    from worker.training.callback import InfluenceCallback
    from worker.training.measurement import EncodedProbe
    from worker.training.tokenization import TokenizedSample

__all__ = ["EncodedProbe", "InfluenceCallback", "TokenizedSample"]
