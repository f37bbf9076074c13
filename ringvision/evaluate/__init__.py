"""What a model can do, measured: videos it never saw, questions with known answers, and what guessing would
score.
"""
