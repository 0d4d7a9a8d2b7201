"""Feature shards on disk, feature sets over many of them, and their extraction."""
