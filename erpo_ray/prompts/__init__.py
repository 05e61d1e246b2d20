"""Prompts: embedded seeds, files and hub data sets, attack wrappers, and the mix a run trains and evaluates on."""
