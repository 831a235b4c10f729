"""What generators read a bank with: the bank at a pinned snapshot, records, fresh noise, and their mix."""
