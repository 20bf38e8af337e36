"""Shards in and out: the names that the rest of the pipeline uses."""

from pipeline.shard_list import InputError, Shard, list_shards, shard_name
from pipeline.shard_reader import ShardReader
from pipeline.shard_writer import QuarantineWriter, ShardWriter, WrittenFile

__all__ = ["InputError", "QuarantineWriter", "Shard", "ShardReader", "ShardWriter", "WrittenFile", "list_shards", "shard_name"]
