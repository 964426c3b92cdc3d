"""Every built-in encoder passes the suite; every check of the suite catches the encoder that breaks it."""

from __future__ import annotations

from genrec_plugins.testing import encoder_suite

TestLum = encoder_suite("lum", {"hidden": 8, "num_queries": 3})
TestLumLearned = encoder_suite("lum", {"hidden": 12, "positions": "learned", "dropout": 0.2}, embedding_dim=6)
TestLumWithoutConditions = encoder_suite("lum", {"hidden": 8}, num_condition_features=0)
TestLumPacked = encoder_suite("lum", {"hidden": 8, "attention": "packed"})
TestHstu = encoder_suite("hstu", {"num_heads": 2})
TestHstuPacked = encoder_suite("hstu", {"attention": "packed", "hidden": 4}, num_condition_features=0)
TestSasRec = encoder_suite("sasrec", {"num_heads": 2})
TestSasRecTied = encoder_suite("sasrec", feature_dim=8, num_item_features=1, num_condition_features=0)
TestMeanPool = encoder_suite("mean-pool")
TestMeanPoolTied = encoder_suite("mean-pool", feature_dim=8, num_item_features=1, num_condition_features=0)
TestDin = encoder_suite("din")
TestDinTied = encoder_suite("din", {"hidden_sizes": []}, feature_dim=8, num_item_features=1, num_condition_features=0)
