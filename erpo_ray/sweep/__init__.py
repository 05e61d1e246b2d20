"""Several methods on one model, one set of prompts, one judge and one budget: `erpo sweep`."""
