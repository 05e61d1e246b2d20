"""Training on torch and TRL: plain functions of (rows, settings) that write a model directory. No Ray in here."""
