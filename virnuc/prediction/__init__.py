"""Predicting: sequences of any length to calls, each chunk exactly once.

Order: `reading` (records of FASTA and FASTQ), `chunks` (what of a chunk is embedded, and its status), `scoring`
(embeddings and classifier), `calls` (chunks and sequences called), `running` (the resumable stage), `packed` (a
scorer on disk, which is what gets registered).
"""
