"""Other projects' weights: read without running anything of theirs, renamed by tables, written as this
project's folders, and back.
"""
