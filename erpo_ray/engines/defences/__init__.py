"""Decoding-time defences through transformers: ROSE (reverse-prompt contrast) and SCANS (activation steering)."""
