"""A small world whose truth can be read off the pixels: captioned videos from one seed, and a judge that reads them.

One thing of a colour, a shape and a size moves over a textured backdrop, and a caption says so. Lists of any length
are written without rendering; every row can be made alone.
"""
