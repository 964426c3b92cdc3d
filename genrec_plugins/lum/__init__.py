"""LUM in three steps: pre-train on behaviour sequences, query the knowledge of every user, use it in a ranker."""
