"""Predicting: sequences of any length to calls, each chunk exactly once.

Order: `reading` (records of FASTA and FASTQ), `chunks` (what of a chunk is embedded, and its status), `companion`
(whole chunks of DNA), `scoring` (embeddings and classifiers), `calls` (chunks and sequences called),
`prediction` (the resumable stage), `scorer` (a scorer on disk, as it is registered), `choosing` (whether
frames, companion or both score a chunk).
"""
