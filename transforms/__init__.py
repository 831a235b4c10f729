"""The steps of a build as Beam transforms: thin, each calls plain functions of the library."""
