"""The files of a bank: snapshots and their parts, receipts, tables, tars and noise shards; reading and writing each."""
