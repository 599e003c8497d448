"""The parts of ``scripts/train_builtin.py``: texts, tokenizer, training, measuring, shipping."""
