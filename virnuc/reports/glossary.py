"""The words that a report uses, as docs/glossary.md explains them."""

from __future__ import annotations

WORDS = {
    "chunk": "a piece of a record, 300 or 500 bp",
    "frame": "one of a chunk's six reading frames that has no stop codon: its DNA and its protein",
    "encoder": "a model that turns a frame's DNA or protein into a vector",
    "composition": "frequencies of k-mers, such as tetranucleotides, in place of a language model",
    "replicate": "one of several trainings of the same side that differ in the seed alone; the one with the median "
    "validation loss is registered",
    "control": "a model without a protein language model: composition, or the DNA side alone",
    "split": "the assignment of frames to training, validation and test",
    "unit": "what the split keeps together, such as whole genomes",
    "baseline, candidate": "the slow side, and the fast side that is to replace it",
    "coverage": "the share of chunks that have a frame; test metrics are computed on those chunks",
    "accuracy drop": "accuracy of the baseline minus accuracy of the candidate, on the same test frames",
    "95 % interval": "how far the value would vary with other test genomes: a bootstrap that draws whole genomes",
    "speed-up": "embedding time of the baseline divided by that of the candidate; same sample, precision and device",
    "gate": "the rules in model_registry/policy.yaml",
    "verdict": "PASS if every rule holds, FAIL if one does not, NO VERDICT if evidence is missing",
    "MCC": "Matthews correlation coefficient: 1 perfect, 0 chance",
    "ECE": "expected calibration error: how far predicted probabilities are from observed frequencies",
    "digest": "SHA-256 of contents: two things with the same digest are the same",
}
