"""Everything that runs a model: tokenizer and chat template, vLLM, sentence embeddings, and the models' files."""
