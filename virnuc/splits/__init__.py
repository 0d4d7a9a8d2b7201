"""Splits: which frames are for training, validation and testing, made once and shared by every feature set."""
