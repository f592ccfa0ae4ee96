"""Law: between rounds a device serves the best model that it has seen, by its own test part, and says only what it may.

decision.py    keep, swap or roll back: from scores to one sentence
foretold.py    a forecast beside what came
limiter.py     how many predictions a minute
reading.py     from a model's output to a label, a value or an anomaly
shelf.py       the last good model on the disk
server.py      the shell: new models in, live windows in, predictions out
"""
