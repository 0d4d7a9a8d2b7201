"""One thin click command an entry point of the MLproject: parse, call, track, exit code."""
