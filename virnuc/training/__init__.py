"""`train`: from features and a split to a classifier.

`data` matches features with the split, `batches` orders and reads them, `epochs` makes the steps and computes metrics,
`stack` trains several replicates in one pass, `state` saves what a training needs to resume, and `run` puts all of
them together.
"""
