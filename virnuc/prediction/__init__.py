"""Predicting: sequences of any length to calls, each chunk exactly once.

Order: `reading` (records of FASTA and FASTQ), `chunks` (what of a chunk is embedded, and its status), `companion`
(chunks without an open frame), `scoring` (embeddings and classifiers), `calls` (chunks and sequences called), `running`
(the resumable stage), `packed` (a scorer on disk, which is what gets registered), `choosing` (how it scores chunks
without an open frame).
"""
