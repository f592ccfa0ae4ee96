"""Law: the command line asks, starts and shows; it decides nothing, and loads a tier only when that is asked for."""
