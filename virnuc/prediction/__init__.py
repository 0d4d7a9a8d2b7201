"""Predicting: sequences of any length to calls, each chunk exactly once.

Order: `reading` (records of FASTA and FASTQ), `chunks` (what of a chunk is embedded, and its status), `companion`
(chunks without an open frame), `scoring` (embeddings and classifiers), `calls` (chunks and sequences called),
`prediction` (the resumable stage), `scorer` (a scorer on disk, as it is registered), `fallback` (how chunks
without an open frame are scored).
"""
