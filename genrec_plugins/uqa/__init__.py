"""UQABench (arXiv 2502.19178): user embeddings as soft prompt tokens of a language model, trained on questions."""
