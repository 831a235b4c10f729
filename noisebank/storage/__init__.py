"""Where a bank's files live: a local folder through ``os``, object stores through obstore.

A bank needs little of its storage: create a file only if it is absent (that is a commit), write a file under a name
that its content decides, read whole files and ranges, list, delete. Nothing is renamed, locked or changed in place, but
for a damaged receipt that is replaced.
"""

from noisebank.storage.base import Store, StoredFile
from noisebank.storage.files import BankWriter, FileEntry, file_sha256
from noisebank.storage.opening import absolute_address, open_store

__all__ = ["BankWriter", "FileEntry", "Store", "StoredFile", "absolute_address", "file_sha256", "open_store"]
