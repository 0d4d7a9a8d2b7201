"""Files that appear whole or not at all, manifests, the resumable output directory, and safe reading of `.pt` files."""
