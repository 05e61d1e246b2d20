"""Judges: what they say of a candidate, kept apart from where they run. Pure: embeddings come in as a function."""

UNFINISHED = "unfinished"
"""The note every judge gives a candidate that holds no answer (an unclosed `<think>`, or nothing after it)."""
