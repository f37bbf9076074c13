"""From a video and a question to an answer: prefill, decode, sample, and the assistant that remembers what it
read.
"""
