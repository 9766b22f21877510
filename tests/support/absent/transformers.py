"""Stands for a package that is not installed. LiteRT's converter brings transformers, and mmdet and mmengine import it
wherever they find it, which is a third of the time in which a tool starts."""
raise ImportError('transformers is left out of the tests of tools')
