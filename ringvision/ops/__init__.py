"""The arithmetic under the model: attention round the ring, rotary positions, losses. Arrays in, arrays
out.
"""
