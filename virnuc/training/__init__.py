"""`train`: features and a split to a classifier, every epoch accounted for.

`data` matches features with the split, `batches` orders and reads them, `epochs` makes the steps and the metrics,
`stack` trains several replicates in one pass, `state` keeps a training that may be killed at any moment, and `run`
holds them together.
"""

from virnuc.training.run import TrainingResult, train
from virnuc.training.state import EpochRecord, find_training
