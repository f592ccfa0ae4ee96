"""Law: what is shown follows from what was heard, purely: messages and a time in, frozen values out."""
