"""Text <-> token ids, and the chat templates around them. isolation/ is where other people's files are read,
in a process of their own.
"""
