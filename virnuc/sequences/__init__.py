"""From sequence files to reading frames."""
