"""Everything that is read: video files, text, the drawn world; and the stream and the batches that are made
of them.
"""
