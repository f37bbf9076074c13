"""One reader a file format: each finds out what tensors a file holds and where their bytes lie, trusting
nothing that the file says.
"""
