"""Retrieval Lab: the small package behind the notebooks. Each module is opened by two lines that say what is in it and which lesson teaches it.

Importing the package imports none of its heavy dependencies; import the module that you need: ``from retrieval_lab import embedding``.
"""

__version__ = "0.1.0"
