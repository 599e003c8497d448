"""GGUF files, as llama.cpp writes them: configuration, weights and tokenizer in one file."""
