"""Texts and labels in, batches out. Knows nothing of models."""
