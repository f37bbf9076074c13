"""Processes that read strangers' tokenizers and templates: bounded in time and memory, without files or
network.
"""
