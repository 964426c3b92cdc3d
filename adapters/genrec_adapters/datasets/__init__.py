"""Built-in datasets: files as downloaded to chunks of raw columns. Importing this loads neither polars nor torch."""

from __future__ import annotations

from genrec_registry import DatasetRecord

_HERE = "genrec_adapters.datasets"

RECORDS = (
    DatasetRecord(
        name="criteo-kaggle",
        config=f"{_HERE}.configs:CriteoKaggleConfig",
        factory=f"{_HERE}.criteo:CriteoKaggle",
        summary="Criteo Display Advertising: raw train.txt, or the Criteo_x4 CSVs",
        aliases=("criteo",),
        since="0.1",
    ),
    DatasetRecord(
        name="criteo-1tb",
        config=f"{_HERE}.configs:CriteoTerabyteConfig",
        factory=f"{_HERE}.criteo:CriteoTerabyte",
        summary="Criteo 1 TB click logs: day_0 .. day_23, split as in MLPerf",
        since="0.1",
    ),
    DatasetRecord(
        name="avazu",
        config=f"{_HERE}.configs:AvazuConfig",
        factory=f"{_HERE}.avazu:Avazu",
        summary="Avazu CTR: raw train CSV, or the Avazu_x4 CSVs",
        since="0.1",
    ),
    DatasetRecord(
        name="parquet",
        config=f"{_HERE}.configs:ParquetConfig",
        factory=f"{_HERE}.parquet:ParquetTable",
        summary="any Parquet table with a 0/1 label",
        since="0.1",
    ),
    DatasetRecord(
        name="csv",
        config=f"{_HERE}.configs:CsvConfig",
        factory=f"{_HERE}.csv_table:CsvTable",
        summary="any delimited text file with a 0/1 label",
        since="0.1",
    ),
    DatasetRecord(
        name="movielens",
        config=f"{_HERE}.behaviour_configs:MovieLensConfig",
        factory=f"{_HERE}.movielens:MovieLens",
        summary="MovieLens ratings with their users' histories: RecBole's atomic files, or as GroupLens publishes them",
        capabilities=frozenset({"events"}),
        since="0.2",
    ),
    DatasetRecord(
        name="amazon-reviews",
        config=f"{_HERE}.behaviour_configs:AmazonReviewsConfig",
        factory=f"{_HERE}.amazon_reviews:AmazonReviews",
        summary="Amazon reviews: user -> items JSON, reviews as JSON lines, MiniOneRec's CSVs",
        aliases=("amazon",),
        capabilities=frozenset({"events"}),
        since="0.2",
    ),
    DatasetRecord(
        name="taobao-userbehavior",
        config=f"{_HERE}.behaviour_configs:TaobaoConfig",
        factory=f"{_HERE}.taobao:TaobaoUserBehavior",
        summary="Taobao user behaviour (Tianchi): page views, carts, favourites and purchases",
        aliases=("taobao",),
        capabilities=frozenset({"events"}),
        since="0.2",
    ),
    DatasetRecord(
        name="kuairand",
        config=f"{_HERE}.behaviour_configs:KuaiRandConfig",
        factory=f"{_HERE}.kuairand:KuaiRand",
        summary="KuaiRand: videos shown in feeds, with clicks, long views and other feedback",
        capabilities=frozenset({"events"}),
        since="0.2",
    ),
)
