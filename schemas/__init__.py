"""The tables of a bank for whoever reads or writes them: the library's own schemas, by the folder they are of."""
