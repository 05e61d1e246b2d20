"""Evaluation: what a policy does on prompts held apart from training, with intervals, and the gate that reads it."""
