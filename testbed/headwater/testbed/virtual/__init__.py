"""Law: the deployed code on virtual time: nothing sleeps, nothing races, and a seed says all that happens."""
