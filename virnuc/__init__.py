"""May a fast protein language model replace a slow one in a classifier of viral DNA?

The packages follow the data: `sequences` cuts genomes into reading frames, `encoders` turns a frame into vectors,
`features` keeps those vectors on disk, `splits`, `training` and `evaluation` are the experiment, and `prediction` runs
its winner. Nothing here imports click, and `tracking` alone imports mlflow, so that everything up to `benchmarking`
also runs on a bare GPU machine.
"""

__version__ = "0.1.0"
