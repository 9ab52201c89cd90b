"""A finished run -> a function of images.

`predict_split` answers with `evaluation.predictions.Predictions`, plain arrays that say what was predicted for which
image: the one thing of `evaluation` that this room uses, so that a prediction is the same object wherever it is made.
"""
