"""Everything that is read: video files, text, the synthetic world; and the stream and the batches that are
made of them.
"""
