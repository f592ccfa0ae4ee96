"""Law: a dashboard is an ordinary subscriber; any number may run anywhere, and what it shows it was told.

The only room that knows the browser's toolkit.
"""
