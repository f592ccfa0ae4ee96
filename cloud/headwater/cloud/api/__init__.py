"""Law: the API tells what the history holds and writes down what is asked for; it decides nothing of a run itself.

gate.py      who asks, and how much may come with it, before a byte of the body is read
tokens.py    the file of tokens
problems.py  whatever goes wrong as RFC 9457 says it
pages.py     what a reader may ask of a list
answers.py   records of the history as the answers of `schemas.http`
health.py, fleets.py, runs.py, rounds.py, models.py, nodes.py, releases.py   the paths
app.py       the application of all these; server.py serves it
"""
